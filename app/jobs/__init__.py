"""Jobs: what waits for, runs on and has run on a worker. Fine-tuning jobs and evaluations share the queue."""
