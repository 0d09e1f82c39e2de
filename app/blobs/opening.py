"""Which blob store a deployment has."""

from pathlib import Path

from app.blobs.local import LocalBlobStore
from app.blobs.remote import RemoteBlobStore
from app.blobs.store import BlobStore


class BlobStoreUnusable(Exception):
    """The store that the settings name cannot be used; the text says what to do."""


def open_blobs(url: str | None, folder: Path) -> BlobStore:
    """Returns the store at a URL (`s3://bucket/prefix`), or a folder's without one. To be called after any fork.

    Where the server is and who we are is told as ever by AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

    Raises:
        BlobStoreUnusable: no package for such URLs.
    """
    if url is None:
        return LocalBlobStore(folder)
    try:
        import fsspec  # noqa: PLC0415  # only where blobs are remote

        # Other processes write too: what was listed a moment ago may have changed.
        files, root = fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise BlobStoreUnusable(f"Nothing here reads {url.partition('://')[0]}:// URLs. Run: pip install 'dianda[s3]'") from error
    return RemoteBlobStore(files, root)
