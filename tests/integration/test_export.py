"""An adapter that a worker trained leaves the product through the command's own code, and plain transformers runs it."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from app.cli.export import export_to_folder
from app.durable import verify_folder
from app.ml.adapter_card import read_card
from app.ml.tokens import load_tokenizer
from tests.fixtures.tiny import TINY
from tests.integration.conftest import Product

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_a_trained_adapter_is_exported_and_answers_in_plain_transformers(product: Product, tmp_path: Path) -> None:
    job_id = product.start_job(product.upload(), "leaves", n_epochs=30, learning_rate=1e-2)
    assert product.wait_status(job_id, "succeeded", "failed")["status"] == "succeeded"
    console = Console(file=io.StringIO())

    export_to_folder(product.client, console, model="leaves:1", format="merged", to=tmp_path / "merged", keeps=True)

    verify_folder(tmp_path / "merged")
    (export,) = product.client.get("/v1/exports")["data"]
    assert export["progress"]["step"] == export["progress"]["total_steps"]
    question = "问题0号怎么办"
    wanted = product.client.post("/answer", {"question": question, "model": "leaves:1"})["answer"]
    tokenizer = load_tokenizer(product.folder / "data" / "models" / TINY)
    prompt = read_card(tmp_path / "merged").renderer.encode(question, tokenizer)
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    tokens = network.generate(torch.tensor([prompt]), max_new_tokens=100)[0, len(prompt) :]
    assert tokenizer.decode(tokens.tolist()) == wanted
