"""Promotions: which adapter answers under an alias, judged by a gate, tried out beside the last one, and taken back."""
