"""The code book: what a code says to a customer. Answers show its texts; a job may take its codes into the vocabulary."""
