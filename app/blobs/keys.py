"""How keys are made; the answerer knows an adapter by its checksum alone."""


def adapter_key(checksum: str) -> str:
    """Returns the key of an adapter's folder: content-addressed, so an old name never serves new weights."""
    return f"adapters/{checksum}"


def rows_key(file_key: str) -> str:
    """Returns the key of a dataset's canonical rows, beside the bytes that the user uploaded."""
    return f"{file_key}.rows"


def checkpoint_key(job_id: str, step: int, fence: int) -> str:
    """Returns the key of a checkpoint's folder; the fence keeps a lost worker's out of the way."""
    return f"checkpoints/{job_id}/{step}-{fence}"


def export_key(job_id: str, fence: int) -> str:
    """Returns the key of an export's folder."""
    return f"exports/{job_id}-{fence}"
