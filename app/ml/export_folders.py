"""What an exported folder holds beside its weights: the adapter's card, and a README for someone without Dianda. No torch."""

import json
import shutil
from pathlib import Path
from typing import Literal

from app.ml.adapter_card import CARD, AdapterCard, read_card

ExportFormat = Literal["peft", "merged", "gguf"]
README = "README.md"
GGUF_FILE = "model.gguf"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PEFT_CODE = """\
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained("{base}")
    tokenizer = AutoTokenizer.from_pretrained("{base}")
    model = PeftModel.from_pretrained(base, "this folder")
"""
_MERGED_CODE = """\
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained("this folder")
    tokenizer = AutoTokenizer.from_pretrained("this folder")
"""


def write_peft_export(adapter: Path, target: Path, *, name: str, base: Path) -> None:
    """Copies an adapter's weights, config and card into `target` and names its base model as others know it.

    Nothing else of the adapter's folder leaves: what lies there beside may come from customers' questions.
    """
    card, published = read_card(adapter), published_name(base)
    for file in (_WEIGHTS, CARD):
        shutil.copyfile(adapter / file, target / file)
    config = json.loads((adapter / _CONFIG).read_text())
    # peft writes the folder that it loaded the base from, which means nothing on another machine.
    config["base_model_name_or_path"], config["revision"] = published or card.base_model, None
    (target / _CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=2, sort_keys=True))
    loading = _PEFT_CODE.format(base=published or f"folder or hub name of {card.base_model}")
    kind = "".join((" DoRA" if card.spec.use_dora else " LoRA", " with rsLoRA's scale" if card.spec.use_rslora else ""))
    _write_readme(target, name, card, f"A{kind} adapter of rank {card.spec.lora_rank} on {_base(card, published)}.", loading)


def write_merged_card(adapter: Path, target: Path, *, name: str, base: Path) -> None:
    """Adds the card and the README to a merged model's folder."""
    card = read_card(adapter)
    shutil.copyfile(adapter / CARD, target / CARD)
    about = f"{_base(card, published_name(base))}, with the adapter merged into its weights."
    _write_readme(target, name, card, about[0].upper() + about[1:], _MERGED_CODE)


def published_name(base: Path) -> str | None:
    """Returns the hub's name of a base model in the store, or None where its weights came from elsewhere.

    A source that is a path stays on the machine it is on.
    """
    origin = base / "origin.json"
    source = str(json.loads(origin.read_text()).get("source", "")) if origin.is_file() else ""
    kind, _, place = source.partition(":")
    return place.partition("@")[0] if kind == "hub" else None


def _base(card: AdapterCard, published: str | None) -> str:
    where = f" ({published})" if published else ""
    return f"base model {card.base_model}{where}"


def _write_readme(target: Path, name: str, card: AdapterCard, about: str, loading: str) -> None:
    prompt = card.renderer.render("{question}").replace("\n", "\\n")
    shown = ""
    if card.spec.prompt_neighbours:
        shown = (
            f"Before it Dianda shows the {card.spec.prompt_neighbours} nearest training questions with their answers, which this "
            "folder's users must do themselves: without them the answers are worse.\n\n"
        )
    if card.has_classifier:
        shown += (
            "In Dianda a linear classifier of the questions' characters has a say in each answer, which is not in this folder: "
            "without it answers differ here and there, and confidences are not those that were calibrated.\n\n"
        )
    if card.code_token_ids is not None:
        shown += (
            "Each code is one token that stands for it, here and in those answers: `code_token_ids` of "
            f"`{CARD}` lists them in the order of `vocabulary.codes`. `|` and the end are the tokenizer's own.\n\n"
        )
    text = f"""# {name}

{about} Made by Dianda; `{CARD}` says how it was trained and which codes it answers with.

{loading}
The prompt is exactly this, after the tokenizer's own start token (`\\n` is a newline); the answer is codes joined by `|`:

    {prompt}

{shown}The base model's licence applies to this folder too.
"""
    (target / README).write_text(text)
