"""How an experiment's arms spread over workers: real workers and child processes over Redis, only the training is scripted."""
