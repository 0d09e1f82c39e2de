"""The text of a key: `dk_`, eight characters that may be shown, and the rest of 256 random bits.

What is stored is the SHA-256 of the whole. A slow hash would protect nothing more: it makes guessing dear where people
choose secrets, and nobody guesses 208 bits; it would cost each answer more than the answer.
"""

import hashlib
import hmac
import re
import secrets

_SHOWN = 8
_FORM = re.compile(r"dk_[\w-]{43}", re.ASCII)
PREFIX_CHARS = len("dk_") + _SHOWN


def new_secret() -> str:
    """Returns a new key's text."""
    return f"dk_{secrets.token_urlsafe(32)}"


def prefix_of(secret: str) -> str | None:
    """Returns the part that tells keys apart and may be shown; None: this is no key's text."""
    return secret[:PREFIX_CHARS] if _FORM.fullmatch(secret) else None


def digest_of(secret: str) -> bytes:
    """Returns what is stored of a key, 32 bytes."""
    return hashlib.sha256(secret.encode()).digest()


def is_secret_of(secret: str, digest: bytes) -> bool:
    """Says whether a digest is this secret's, in a time that does not tell how much of it agrees."""
    return hmac.compare_digest(digest_of(secret), digest)
