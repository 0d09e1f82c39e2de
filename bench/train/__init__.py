"""The training engine against the tools that it replaces: `python -m bench.train --help`."""
