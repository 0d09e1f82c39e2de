"""The answer engine against transformers' own ways to answer: `python -m bench.answer --help`."""
