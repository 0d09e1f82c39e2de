"""Datasets: upload, check, describe, keep. `files` in the HTTP dialect."""
