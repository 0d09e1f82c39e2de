"""Trained adapters: versions, and the aliases that point to them with their history. `models` in the HTTP dialect."""
