"""Answers from a loaded model: constrained to an adapter's grammar, or free. Simple and right.

Greedy decoding with a key-value cache, a batch of questions at a time; alternatives by a beam. A batch uses one adapter.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from app.ml.codes import AnswerGrammar, AnswerState
from app.ml.engine.code_shares import CodeShares
from app.ml.engine.head import head_at
from app.ml.engine.observing import Observation
from app.ml.tokens import TextTokenizer


@dataclass(frozen=True)
class DecodedAnswer:
    """One complete answer of the grammar."""

    codes: tuple[str, ...]
    code_confidences: tuple[float, ...]
    """Product over a code's tokens of p(token | allowed tokens), its end included; uncalibrated."""
    confidence: float
    """Product of the code confidences: the probability of the whole answer among all valid ones, step by step."""
    tokens: int = 0
    """Tokens of the answer, its end included."""


@dataclass(frozen=True)
class _Path:
    question: int
    state: AnswerState
    log_probability: float = 0.0
    code_log_probabilities: tuple[float, ...] = ()
    open_log_probability: float = 0.0
    tokens: int = 0


@torch.inference_mode()
def decode_constrained(
    network: Any,
    prompts: Sequence[Sequence[int]],
    grammar: AnswerGrammar,
    *,
    pad_id: int,
    device: torch.device,
    width: int = 1,
    decode: Callable[[Sequence[int]], str] | None = None,
    shares: Sequence[CodeShares] | None = None,
) -> list[list[DecodedAnswer]]:
    """Returns for each prompt its best complete answers, best first: one for `width` 1 (greedy), else up to `width`.

    `decode` gives the text of open values, where the grammar has them; `shares` is what a classifier says of each question.
    A beam of width W keeps the W most probable partial answers of each question, so an alternative is the best that such a
    beam finds, not a proven best of all.
    """
    sequence = _Sequence(network, prompts, pad_id=pad_id, device=device)
    paths = [_Path(question, grammar.initial) for question in range(len(prompts))]
    finished: list[list[_Path]] = [[] for _ in prompts]
    while paths:
        logits = sequence.logits()
        grown: list[list[tuple[float, int, int, _Path]]] = [[] for _ in prompts]
        for row, path in enumerate(paths):
            allowed = grammar.allowed(path.state)
            scores = _scores(logits[row, allowed], grammar, path.state, None if shares is None else shares[path.question])
            for token, score in zip(allowed, scores, strict=True):
                grown[path.question].append((path.log_probability + score, row, token, _advance(grammar, path, token, score)))
        parents, tokens, paths = [], [], []
        for question, candidates in enumerate(grown):
            candidates.sort(key=lambda candidate: -candidate[0])
            for _, row, token, path in candidates[: width - len(finished[question]) if width > 1 else 1]:
                if path.state.ended:
                    finished[question].append(path)
                else:
                    parents.append(row)
                    tokens.append(token)
                    paths.append(path)
        if paths:
            sequence.extend(parents, tokens)
    return [
        [_as_answer(grammar, path, decode) for path in sorted(done, key=lambda path: -path.log_probability)] for done in finished
    ]


@torch.inference_mode()
def observe_constrained(
    network: Any,
    prompts: Sequence[Sequence[int]],
    grammar: AnswerGrammar,
    *,
    pad_id: int,
    device: torch.device,
    shares: Sequence[CodeShares] | None = None,
) -> list[Observation]:
    """Returns for each prompt the greedy answer of `decode_constrained`, with what the model weighed on its way."""
    sequence = _Sequence(network, prompts, pad_id=pad_id, device=device)
    states = [grammar.initial] * len(prompts)
    steps: list[list[tuple[float, ...]]] = [[] for _ in prompts]
    chosen: list[list[int]] = [[] for _ in prompts]
    with _head_inputs(network) as seen:
        logits = sequence.logits()
    # Prompts are padded on their left.
    hidden = seen[0][:, -1].float().cpu()
    live = list(range(len(prompts)))
    while True:
        parents, tokens, going = [], [], []
        for row, question in enumerate(live):
            allowed = grammar.allowed(states[question])
            scores = _scores(logits[row, allowed], grammar, states[question], None if shares is None else shares[question])
            place = max(range(len(allowed)), key=scores.__getitem__)
            if len(allowed) > 1:
                steps[question].append(tuple(scores))
                chosen[question].append(place)
            states[question] = grammar.advance(states[question], allowed[place])
            if not states[question].ended:
                parents.append(row)
                tokens.append(allowed[place])
                going.append(question)
        live = going
        if not live:
            break
        sequence.extend(parents, tokens)
        logits = sequence.logits()
    return [
        Observation(grammar.codes_of(state), tuple(weighed), tuple(taken), vector)
        for state, weighed, taken, vector in zip(states, steps, chosen, hidden, strict=True)
    ]


@contextmanager
def _head_inputs(network: Any) -> Iterator[list[torch.Tensor]]:
    seen: list[torch.Tensor] = []
    handle = network.get_output_embeddings().register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        yield seen
    finally:
        handle.remove()


@torch.inference_mode()
def decode_free(
    network: Any,
    prompts: Sequence[Sequence[int]],
    tokenizer: TextTokenizer,
    *,
    device: torch.device,
    max_new_tokens: int,
) -> list[tuple[str, float]]:
    """Returns for each prompt the greedy text up to the end token or a line break, and its probability.

    Nothing constrains it: the text may be anything.
    """
    sequence = _Sequence(network, prompts, pad_id=tokenizer.pad_id, device=device)
    live = list(range(len(prompts)))
    texts: list[list[int]] = [[] for _ in prompts]
    log_probabilities = [0.0] * len(prompts)
    for _ in range(max_new_tokens):
        scores = torch.log_softmax(sequence.logits().float(), dim=-1)
        best = scores.max(dim=-1)
        parents, tokens, going = [], [], []
        for row, question in enumerate(live):
            token = int(best.indices[row])
            log_probabilities[question] += float(best.values[row])
            if token == tokenizer.eos_id:
                continue
            texts[question].append(token)
            if "\n" in tokenizer.decode(texts[question]).lstrip("\n"):
                continue
            parents.append(row)
            tokens.append(token)
            going.append(question)
        live = going
        if not live:
            break
        sequence.extend(parents, tokens)
    return [
        (tokenizer.decode(ids).strip().split("\n")[0].strip(), math.exp(log_probability))
        for ids, log_probability in zip(texts, log_probabilities, strict=True)
    ]


class _Sequence:
    """A growing batch of token rows with its key-value cache; rows may be dropped, reordered and repeated."""

    def __init__(self, network: Any, prompts: Sequence[Sequence[int]], *, pad_id: int, device: torch.device) -> None:
        width = max(map(len, prompts))
        self._network = network
        self._device = device
        self._cache = DynamicCache(config=network.config)
        self._next_ids = torch.tensor([[pad_id] * (width - len(ids)) + list(ids) for ids in prompts], device=device)
        self._mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        self._rows = len(prompts)

    def logits(self) -> torch.Tensor:
        """Runs the new tokens and returns `[rows, V]` logits of the last position."""
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -self._next_ids.shape[1] :]
        last = torch.ones(self._rows, 1, dtype=torch.bool, device=self._device)
        with head_at(self._network, last):
            output = self._network(
                input_ids=self._next_ids,
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
            )
        logits: torch.Tensor = output.logits[0]
        return logits

    def extend(self, parents: list[int], tokens: list[int]) -> None:
        """Goes on with `parents[i]`'s row plus `tokens[i]` as row i."""
        if parents != list(range(self._rows)):
            chosen = torch.tensor(parents, device=self._device)
            self._cache.batch_select_indices(chosen)
            self._mask = self._mask[chosen]
            self._rows = len(parents)
        self._next_ids = torch.tensor(tokens, device=self._device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=-1)


def _scores(logits: torch.Tensor, grammar: AnswerGrammar, state: AnswerState, shares: CodeShares | None) -> list[float]:
    """Returns the log-probabilities of the allowed tokens, whose logits are given."""
    said: list[float] = torch.log_softmax(logits.float(), dim=-1).tolist()
    if shares is None or state.separator_left:
        return said
    edges = grammar.edges(state)
    lows, highs = grammar.edge_low, grammar.edge_high
    joined: list[float] = shares.joined(said, [lows[edge] for edge in edges], [highs[edge] for edge in edges]).tolist()
    return joined


def _advance(grammar: AnswerGrammar, path: _Path, token: int, score: float) -> _Path:
    state = grammar.advance(path.state, token)
    open_log_probability = path.open_log_probability + score
    closed = path.code_log_probabilities
    if len(state.codes) > len(path.state.codes):
        closed, open_log_probability = (*closed, open_log_probability), 0.0
    return _Path(path.question, state, path.log_probability + score, closed, open_log_probability, path.tokens + 1)


def _as_answer(grammar: AnswerGrammar, path: _Path, decode: Callable[[Sequence[int]], str] | None) -> DecodedAnswer:
    return DecodedAnswer(
        tokens=path.tokens,
        codes=grammar.codes_of(path.state, decode),
        code_confidences=tuple(math.exp(value) for value in path.code_log_probabilities),
        confidence=math.exp(path.log_probability),
    )
