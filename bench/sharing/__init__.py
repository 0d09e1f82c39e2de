"""Training and answering at once on one card, each within its part: `python -m bench.sharing --help`."""
