"""An export from its row to its files: the recipe with a real child on the tiny Gemma, and what it refuses."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from sqlalchemy import Engine
from transformers import AutoModelForCausalLM

from app.blobs.keys import adapter_key, export_key
from app.blobs.local import LocalBlobStore
from app.db.unit_of_work import read_only, unit_of_work
from app.durable import seal_folder, sha256_of_file, verify_folder
from app.errors import AppError
from app.exports import repository, service
from app.jobs import service as jobs
from app.jobs.models import Job
from app.ml.adapter_card import read_card, write_card
from app.ml.engine.training import Wish
from app.ml.export_folders import ExportFormat
from app.ml.model_store import ModelStore
from app.ml.spec import FinetuneSpec
from tests.app.ml.engine.training_help import FAST, load, publish, run
from tests.fixtures.queue import RecordingDoorbell, insert_adapter, must_claim, read_job
from tests.fixtures.tiny import TINY, make_tiny_store
from tests.fixtures.worker import worker_context
from worker import tasks
from worker.assignment import OUTPUT, Assignment
from worker.context import WorkerContext
from worker.export_child import export
from worker.line import Line
from worker.messages import Finished, Message, Stopped

SPEC = replace(FAST, num_train_epochs=3, lora_rank=4, use_dora=True, lora_target=("q_proj", "v_proj"))
CONVERTER = "import sys; open(sys.argv[sys.argv.index('--outfile') + 1], 'wb').write(b'GGUF')"


class WishingLine(Line):
    """Keeps what is said, wishes what the test wants."""

    def __init__(self, wish: Wish = Wish.NONE) -> None:
        self._wish = wish
        self.said: list[Message] = []

    def say(self, message: Message) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def dialect() -> str:
    """One database: what the rows do on both is tested beside the endpoints, and a child takes seconds to start."""
    return "sqlite"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return make_tiny_store(tmp_path_factory.mktemp("models"))


def trained(store: ModelStore, folder: Path, spec: FinetuneSpec = SPEC) -> str:
    base = store.get(TINY)
    return publish(run(base, spec, folder.with_name("checkpoints")), folder, base, spec)


@pytest.fixture(scope="module")
def adapter(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    trained(store, folder)
    return folder


def assigned(store: ModelStore, adapter: Path, wanted: ExportFormat, **fields: Any) -> Assignment:
    base = store.get(TINY)
    values: dict[str, Any] = {
        "kind": "export",
        "base_model": TINY,
        "base_model_folder": str(base.path),
        "base_model_checksum": base.checksum,
        "dataset": "",
        "dataset_checksum": "",
        "validation": None,
        "spec": {"format": wanted, "adapter": "telecom:1"},
        "seed": 0,
        "resume_from": None,
        "adapter_folder": str(adapter),
        "adapter_checksum": verify_folder(adapter),
        "max_rows": None,
        "threads": 1,
        **fields,
    }
    return Assignment(**values)


@torch.no_grad()
def logits_of(network: Any) -> torch.Tensor:
    logits: torch.Tensor = network(input_ids=torch.tensor([[256, *b"price of B\n"]])).logits
    return logits


def test_a_peft_export_loads_in_plain_peft_and_names_no_path(store: ModelStore, adapter: Path, tmp_path: Path) -> None:
    with_more = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    (with_more / "questions.index").write_bytes(b"what customers asked")

    ending = export(assigned(store, with_more, "peft"), tmp_path, WishingLine())

    output = tmp_path / OUTPUT
    assert isinstance(ending, Finished)
    assert verify_folder(output) == ending.result["checksum"]
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors", "dianda.json", "manifest.json"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert json.loads((output / "adapter_config.json").read_text())["base_model_name_or_path"] == TINY
    assert not [path.name for path in output.iterdir() if str(store.root).encode() in path.read_bytes()]
    network = PeftModel.from_pretrained(load(store.get(TINY)).network, str(output))
    assert "default" in network.peft_config


def test_the_merged_and_the_peft_export_give_the_same_logits(store: ModelStore, adapter: Path, tmp_path: Path) -> None:
    both: tuple[ExportFormat, ...] = ("merged", "peft")
    for wanted in both:
        (tmp_path / wanted).mkdir()
        export(assigned(store, adapter, wanted), tmp_path / wanted, WishingLine())

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged" / OUTPUT, dtype=torch.float32)
    peft = PeftModel.from_pretrained(load(store.get(TINY)).network, str(tmp_path / "peft" / OUTPUT))

    assert (logits_of(merged) - logits_of(peft)).abs().max() < 1e-4


def test_the_readme_names_the_hub_where_the_base_came_from_it(store: ModelStore, adapter: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(store.get(TINY).path, base)
    (base / "origin.json").write_text('{"source": "hub:google/gemma-2b@abc", "commit": "abc"}')

    export(assigned(store, adapter, "peft", base_model_folder=str(base)), tmp_path, WishingLine())

    text = (tmp_path / OUTPUT / "README.md").read_text()
    assert 'AutoModelForCausalLM.from_pretrained("google/gemma-2b")' in text
    assert "A DoRA adapter of rank 4" in text
    assert "    {question}\\n\n" in text


def test_the_readme_says_how_codes_that_are_single_tokens_are_read(store: ModelStore, adapter: Path, tmp_path: Path) -> None:
    single = Path(shutil.copytree(adapter, tmp_path / "single"))
    (single / "manifest.json").unlink()
    card = read_card(single)
    write_card(single, replace(card, code_token_ids=tuple(range(len(card.vocabulary.codes)))))
    seal_folder(single)

    export(assigned(store, single, "peft"), tmp_path, WishingLine())

    assert "`code_token_ids` of `dianda.json`" in (tmp_path / OUTPUT / "README.md").read_text()


def test_the_readme_says_that_a_classifier_is_not_in_the_folder(store: ModelStore, adapter: Path, tmp_path: Path) -> None:
    classified = Path(shutil.copytree(adapter, tmp_path / "classified"))
    (classified / "manifest.json").unlink()
    write_card(classified, replace(read_card(classified), has_classifier=True))
    seal_folder(classified)

    export(assigned(store, classified, "peft"), tmp_path, WishingLine())

    assert "a linear classifier of the questions' characters has a say" in (tmp_path / OUTPUT / "README.md").read_text()


def test_a_stopped_export_ends_without_a_result(store: ModelStore, adapter: Path, tmp_path: Path) -> None:
    ending = export(assigned(store, adapter, "merged"), tmp_path, WishingLine(Wish.STOP))

    assert isinstance(ending, Stopped)


def test_an_adapter_of_other_weights_is_refused(store: ModelStore, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(AppError, match="was trained on") as caught:
        export(assigned(store, adapter, "merged", base_model_checksum="0" * 64), tmp_path, WishingLine())

    assert caught.value.code == "adapter_mismatch"


def test_a_damaged_adapter_is_refused(store: ModelStore, adapter: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(adapter, tmp_path / "damaged"))
    assignment = assigned(store, damaged, "merged")
    (damaged / "adapter_model.safetensors").write_bytes(b"half")

    with pytest.raises(AppError, match="damaged"):
        export(assignment, tmp_path, WishingLine())


def test_a_gguf_that_would_lose_its_head_is_refused(store: ModelStore, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    trained(store, folder, replace(SPEC, lora_target=("q_proj", "embed_tokens"), num_train_epochs=1))

    with pytest.raises(AppError, match="Export 'merged'") as caught:
        export(assigned(store, folder, "gguf", gguf_converter="unused"), tmp_path, WishingLine())

    assert (caught.value.code, caught.value.param) == ("not_exportable", "format")


@pytest.fixture
def context(engine: Engine, store: ModelStore, adapter: Path, tmp_path: Path) -> Iterator[WorkerContext]:
    blobs, work = LocalBlobStore(tmp_path / "blobs"), tmp_path / "work"
    work.mkdir()
    blobs.put_folder(adapter_key(verify_folder(adapter)), Path(shutil.copytree(adapter, work / "adapter")))
    converter = tmp_path / "converter.py"
    converter.write_text(CONVERTER)
    yield worker_context(engine, tmp_path, blobs=blobs, store=store, stop_grace_s=10, gguf_converter=converter)


def queue_export(context: WorkerContext, wanted: ExportFormat, checksum: str) -> str:
    adapter_id = insert_adapter(context.engine, checksum=checksum)
    with unit_of_work(context.engine) as session:
        made = service.create(
            session, model=adapter_id, format=wanted, store=context.store, bell=RecordingDoorbell(), max_unfinished=9
        )
        return made.job_id


def export_of(context: WorkerContext, job_id: str) -> tuple[Any, Job]:
    with read_only(context.engine) as session:
        return repository.of_job(session, job_id), read_job(context.engine, job_id)


@pytest.mark.integration
def test_a_queued_gguf_export_ends_with_its_file_in_the_store(context: WorkerContext, adapter: Path) -> None:
    job_id = queue_export(context, "gguf", verify_folder(adapter))

    assert tasks.look(context) == 1

    made, job = export_of(context, job_id)
    assert job.status == "succeeded"
    assert job.progress is not None and job.progress["step"] == job.progress["total_steps"]
    file = context.blobs.fetch(made.blob_key, context.work_dir) / "model.gguf"
    assert (file.read_bytes(), made.checksum, made.size_bytes) == (b"GGUF", sha256_of_file(file), 4)
    assert list(context.work_dir.iterdir()) == []


def test_a_missing_converter_fails_the_job_before_it_starts(
    context: WorkerContext, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    job_id = queue_export(context, "gguf", verify_folder(adapter))

    tasks.look(replace(context, gguf_converter=None))

    _, job = export_of(context, job_id)
    assert (job.status, job.error_code) == ("failed", "gguf_converter_missing")


def test_an_adapter_whose_files_are_gone_fails_the_job(context: WorkerContext) -> None:
    job_id = queue_export(context, "peft", "f" * 64)

    tasks.look(context)

    _, job = export_of(context, job_id)
    assert (job.status, job.error_code) == ("failed", "not_found")


@pytest.mark.integration
def test_a_cancelled_export_leaves_nothing_in_the_store(context: WorkerContext, adapter: Path) -> None:
    job_id = queue_export(context, "peft", verify_folder(adapter))
    lease = must_claim(context.engine)
    with unit_of_work(context.engine) as session:
        jobs.cancel(session, job_id, kind="export")

    tasks.run(context, lease)

    made, job = export_of(context, job_id)
    assert (job.status, made.blob_key) == ("cancelled", None)
    assert not context.blobs.exists(export_key(job_id, lease.fence))


def test_files_of_an_attempt_that_died_are_removed_by_the_next(context: WorkerContext, adapter: Path, tmp_path: Path) -> None:
    job_id = queue_export(context, "peft", "f" * 64)
    left = tmp_path / "left"
    left.mkdir()
    seal_folder(left)
    context.blobs.put_folder(export_key(job_id, 1), left)
    with unit_of_work(context.engine) as session:
        session.get_one(Job, job_id).fence = 1

    tasks.look(context)

    assert not context.blobs.exists(export_key(job_id, 1))
