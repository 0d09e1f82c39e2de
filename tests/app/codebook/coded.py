"""Adapters whose card says which codes they know, without a training."""

from pathlib import Path

from app.adapters import service as adapters
from app.blobs.keys import adapter_key
from app.db.unit_of_work import unit_of_work
from app.ml.adapter_card import AdapterCard, write_card
from app.ml.codes import CodeVocabulary
from app.ml.prompting import Wrapper
from app.ml.spec import FinetuneSpec
from tests.fixtures.api import BASE, Api


def insert_adapter_with_codes(api: Api, folder: Path, codes: tuple[str, ...]) -> str:
    """Puts an adapter with a card into the blob store and the database and returns its id."""
    folder.mkdir()
    card = AdapterCard(
        base_model=BASE,
        base_model_checksum="b",
        dataset_checksum="d",
        spec=FinetuneSpec(),
        precision="fp32",
        seed=0,
        wrapper=Wrapper("", ""),
        vocabulary=CodeVocabulary(codes, 2),
        metrics={},
        versions={},
    )
    write_card(folder, card)
    checksum = "c" * 64
    api.app.state.blobs.put_folder(adapter_key(checksum), folder)
    with unit_of_work(api.engine) as session:
        adapter = adapters.create(
            session,
            name="telecom",
            base_model=BASE,
            job_id="ftjob-none",
            checksum=checksum,
            blob_key=adapter_key(checksum),
            spec={},
            metrics={},
        )
        return adapter.id
