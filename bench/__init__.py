"""Measurements: each module prints what `docs/results/` states, and says how it was made."""
