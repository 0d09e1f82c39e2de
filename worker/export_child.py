"""The export, inside the child: checks what is to be merged, writes the folder, seals it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from app.durable import BrokenFolder, seal_folder, sha256_of_file, verify_folder
from app.ml.adapter_card import read_card
from app.ml.engine.device import use_threads
from app.ml.engine.merging import merge_adapter, unties_head
from app.ml.engine.training import Wish
from app.ml.errors import AdapterMismatch, NotExportable
from app.ml.export_folders import GGUF_FILE, write_merged_card, write_peft_export
from app.ml.gguf_conversion import convert_to_gguf
from worker.assignment import OUTPUT, Assignment
from worker.messages import Advanced, Finished, Message, Note, Started, Stopped

if TYPE_CHECKING:
    from worker.line import Line

# Every told step is a row of the job's story.
_TELL_EVERY_S = 2.0


def export(assignment: Assignment, folder: Path, line: "Line") -> Message:
    """Leaves the adapter in the output folder: as peft's, merged into its base, or as one GGUF file."""
    use_threads(assignment.threads)
    adapter, base = _checked(assignment), Path(assignment.base_model_folder)
    output, name, wanted = folder / OUTPUT, str(assignment.spec["adapter"]), assignment.spec["format"]
    output.mkdir()
    line.say(Started({"format": wanted}))
    match wanted:
        case "peft":
            write_peft_export(adapter, output, name=name, base=base)
        case "merged":
            if not _merge(base, adapter, output, line):
                return Stopped()
            write_merged_card(adapter, output, name=name, base=base)
        case "gguf":
            assert assignment.gguf_converter is not None
            if unties_head(base, adapter):
                raise NotExportable(
                    "The adapter changes an embedding that this base model also uses as its head, and llama.cpp's converter "
                    "drops the head of its own that this needs. Export 'merged', or train without embed_tokens in lora_target.",
                    param="format",
                )
            merged = folder / "merged"
            merged.mkdir()
            if not _merge(base, adapter, merged, line):
                return Stopped()
            line.say(Note("Merged; llama.cpp's converter runs."))
            converted = folder / GGUF_FILE
            if not convert_to_gguf(Path(assignment.gguf_converter), merged, converted, go_on=lambda: _is_wanted(line)):
                return Stopped()
            converted.rename(output / GGUF_FILE)
    size_bytes = sum(path.stat().st_size for path in output.iterdir())
    checksum = seal_folder(output, about={"adapter": name, "format": wanted})
    # A client that gets one file can only check that file.
    return Finished({"checksum": sha256_of_file(output / GGUF_FILE) if wanted == "gguf" else checksum, "size_bytes": size_bytes})


def _checked(assignment: Assignment) -> Path:
    assert assignment.adapter_folder is not None
    adapter = Path(assignment.adapter_folder)
    try:
        is_whole = verify_folder(adapter) == assignment.adapter_checksum
    except BrokenFolder:
        is_whole = False
    if not is_whole:
        raise AdapterMismatch("The adapter's files are damaged. Restore them from a backup, or train it again.", param="model")
    card = read_card(adapter)
    if card.base_model_checksum != assignment.base_model_checksum:
        raise AdapterMismatch(
            f"The adapter was trained on {card.base_model!r} ({card.base_model_checksum[:12]}), but the model store holds "
            f"{assignment.base_model!r} ({assignment.base_model_checksum[:12]}). Bring the old weights back, or train it again.",
            param="model",
        )
    return adapter


def _merge(base: Path, adapter: Path, target: Path, line: "Line") -> bool:
    told = 0.0

    def go_on(done: int, total: int) -> bool:
        nonlocal told
        if done == total or time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            line.say(Advanced({"step": done, "total_steps": total}))
        return _is_wanted(line)

    return merge_adapter(base, adapter, target, go_on=go_on)


def _is_wanted(line: "Line") -> bool:
    return line.wish() is Wish.NONE
