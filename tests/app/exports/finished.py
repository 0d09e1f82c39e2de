"""Exports ended without a worker."""

from app.db.unit_of_work import unit_of_work
from app.durable import seal_folder
from app.exports import service
from tests.fixtures.api import Api
from tests.fixtures.queue import must_claim


def finish(api: Api, *, files: dict[str, bytes]) -> str:
    """Ends the next export as its worker does; returns the key of its files."""
    lease = must_claim(api.engine)
    key = f"exports/{lease.job_id}-{lease.fence}"
    folder = api.settings.blobs_dir / key
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    checksum = seal_folder(folder)
    with unit_of_work(api.engine) as session:
        assert service.finish(session, lease, blob_key=key, checksum=checksum, size_bytes=sum(map(len, files.values())))
    return key
