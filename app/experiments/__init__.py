"""Experiments: several trainings that differ in one thing, on the same data, test rows and seed, and how they compare."""
