"""Text that every store of the product can keep."""


def unusable_text(text: str) -> str | None:
    """Says why a text cannot be stored: NUL (PostgreSQL refuses it) or half a surrogate pair; None if it can."""
    if "\x00" in text:
        return "holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair"
    return None
