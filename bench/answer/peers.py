"""transformers' `generate`, as people answer with an adapter today: unmerged, merged, constrained, static and compiled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from app.ml.codes import AnswerGrammar, parse_answer
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import load_adapter
from app.ml.prompting import PromptRenderer
from app.ml.tokens import TextTokenizer
from bench.answer.contestant import Codes, Contestant, Task


@dataclass(frozen=True)
class Asking:
    """What every peer knows of the adapter and the tasks."""

    renderer: PromptRenderer
    tokenizer: TextTokenizer
    grammar: AnswerGrammar
    device: torch.device
    max_new_tokens: int
    """The tokens of the longest training answer, its end included."""

    def new_tokens(self, tasks: Sequence[Task]) -> tuple[int, int]:
        """Returns the fewest and most tokens to make: any up to the budget, or just those of the longest recorded answer."""
        followed = [len(self.grammar.encode_answer(task.follow)) for task in tasks if task.follow is not None]
        return (max(followed), max(followed)) if followed else (0, self.max_new_tokens)


def loaded_peer(base: LoadedModel, folder: Path, *, is_merged: bool) -> Any:
    """Returns the network with an adapter, in plain peft's form or merged into the weights by peft; uses `base` up."""
    network = load_adapter(base.network, folder, "default")
    return network.merge_and_unload().eval() if is_merged else network


def generate_peers(merged: Any, unmerged: Any, asking: Asking, batches: Sequence[int]) -> list[Contestant]:
    """Returns the peers that run on this device; merged and constrained ones share one network."""
    first = tuple(batches[:1])
    peers = [
        Contestant("generate_merged", partial(_generate, merged, asking), tuple(batches)),
        Contestant("generate_unmerged", partial(_generate, unmerged, asking), first),
        Contestant("generate_prefix_fn", partial(_generate, merged, asking, is_constrained=True), first),
    ]
    if asking.device.type == "cuda":
        compiled = _Compiled(partial(_generate, merged, asking, is_static=True), asking, first)
        peers.append(Contestant("generate_static_compiled", compiled.answer, first, compiled.warm_up, compiled.facts))
    return peers


def _generate(
    network: Any, asking: Asking, tasks: Sequence[Task], *, is_constrained: bool = False, is_static: bool = False
) -> list[Codes]:
    prompts = [asking.renderer.encode(task.question, asking.tokenizer) for task in tasks]
    width = max(map(len, prompts))
    pad_id = asking.tokenizer.pad_id
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts], device=asking.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=asking.device)
    fewest, most = asking.new_tokens(tasks)
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        min_new_tokens=None if is_constrained or not fewest else fewest,
        max_new_tokens=most,
        bos_token_id=asking.tokenizer.bos_id,
        eos_token_id=asking.tokenizer.eos_id,
        pad_token_id=pad_id,
        cache_implementation="static" if is_static else None,
    )
    constraint = _Constraint(asking, tasks, width) if is_constrained else None
    output = network.generate(input_ids=ids, attention_mask=mask, generation_config=config, prefix_allowed_tokens_fn=constraint)
    return [_codes(row, asking.tokenizer) for row in output[:, width:].tolist()]


def _codes(tokens: list[int], tokenizer: TextTokenizer) -> Codes:
    end = tokens.index(tokenizer.eos_id) if tokenizer.eos_id in tokens else len(tokens)
    return parse_answer(tokenizer.decode(tokens[:end]).strip())


class _Constraint:
    """`prefix_allowed_tokens_fn` over the answer grammar; a row's state goes on by one token a call instead of from the start.

    Where an answer is recorded, the grammar is asked all the same and then the recorded token alone is allowed.
    """

    def __init__(self, asking: Asking, tasks: Sequence[Task], width: int) -> None:
        self._grammar = asking.grammar
        self._end_id, self._pad_id, self._width = asking.tokenizer.eos_id, asking.tokenizer.pad_id, width
        self._states = [asking.grammar.initial for _ in tasks]
        self._follow = [None if task.follow is None else asking.grammar.encode_answer(task.follow) for task in tasks]

    def __call__(self, row: int, ids: torch.Tensor) -> list[int]:
        place = len(ids) - self._width
        if place and not self._states[row].ended:
            self._states[row] = self._grammar.advance(self._states[row], int(ids[-1]))
        allowed = self._grammar.allowed(self._states[row])
        if not allowed:
            return [self._pad_id]
        follow = self._follow[row]
        return allowed if follow is None else [follow[place]]


class _Compiled:
    """The static peer, and how many graphs torch compiled for it."""

    def __init__(self, answer: Callable[[Sequence[Task]], list[Codes]], asking: Asking, batches: Sequence[int]) -> None:
        self.answer = answer
        self._asking, self._batches = asking, batches
        self._before = self._warm = _graphs_compiled()

    def warm_up(self, tasks: Sequence[Task]) -> None:
        """Answers at every size of batch.

        Raises:
            RuntimeError: nothing was compiled, so the times would not be what their name says.
        """
        # transformers keeps the longest cache that it was asked for: after the longest prompt and answer no shape changes.
        longest = max(tasks, key=lambda task: len(self._asking.renderer.encode(task.question, self._asking.tokenizer)))
        answers = [task.follow for task in tasks if task.follow is not None]
        if answers:
            most = max(answers, key=lambda codes: len(self._asking.grammar.encode_answer(codes)))
            longest = Task(longest.question, follow=most)
        for size in (1, *self._batches):
            for _ in range(3):
                self.answer([longest, *tasks[: size - 1]])
        self.answer(tasks[:1])
        self._warm = _graphs_compiled()
        if self._warm == self._before:
            raise RuntimeError("transformers compiled nothing")

    def facts(self) -> dict[str, object]:
        """Tells how many graphs were compiled, and how many of them while the clock ran."""
        return {"compiled_graphs": self._warm - self._before, "compiled_while_timed": _graphs_compiled() - self._warm}


def _graphs_compiled() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
