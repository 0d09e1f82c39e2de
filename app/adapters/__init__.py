"""Trained adapters: versions, aliases, the history of promotions. `models` in the HTTP dialect."""
