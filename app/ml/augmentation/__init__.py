"""Training questions said otherwise, their codes unchanged: what a customer might have typed instead."""
