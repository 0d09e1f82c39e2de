"""Ids: a prefix that says what a thing is, and 96 random bits."""

import secrets


def new_id(prefix: str) -> str:
    """Returns for example `file-5f0c…` with 24 hex digits."""
    return f"{prefix}-{secrets.token_hex(12)}"
