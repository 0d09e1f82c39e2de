"""A network under training, answered as the answerer would: its adapter as it is now, on the drafted engine.

Gives what `decode_constrained` gives, in a third of the passes. The engine is made anew for each look, because the weights have
changed meanwhile, and goes away after it, because training needs its memory.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.ml.engine.answering import AnswerEngine
from app.ml.engine.companions import Companions
from app.ml.engine.drafted.slots import slot_shape_of
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import save_adapter
from app.ml.engine.packed.anatomy import find_anatomy

IN_TRAINING = "in-training"
"""The adapter's name in the engine."""


@dataclass(frozen=True)
class AdapterInTraining:
    """What answering needs of an adapter beside its weights."""

    companions: Companions
    scratch: Path
    """Folder for a copy of the weights; the engine reads an adapter's files."""


def find_engine(base: LoadedModel, network: Any, adapter: AdapterInTraining) -> AnswerEngine | None:
    """Returns an engine that answers as `network` does now; None where the drafted engine knows not this base or adapter.

    Raises:
        torch.OutOfMemoryError: training has left it no room.
    """
    if find_anatomy(network.get_base_model()) is None:
        return None
    with tempfile.TemporaryDirectory(dir=adapter.scratch) as scratch:
        folder = Path(scratch)
        save_adapter(network, folder)
        if slot_shape_of(folder) is None:
            return None
        adapter.companions.save(folder)
        engine = AnswerEngine(replace(base, network=network), most_adapters=1)
        engine.load_unsealed(IN_TRAINING, folder)
    return engine
