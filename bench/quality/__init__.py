"""What the answers are worth: variants of the job spec, seeds and baselines on four data sets, chosen without a test row."""
