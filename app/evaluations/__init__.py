"""Evaluations: a model on a dataset, run as a job on a worker."""
