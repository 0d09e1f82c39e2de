"""Single passes of our engine, timed on the device's own clock."""

import random
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch

from app.ml.engine.answering import AnswerEngine
from app.ml.engine.drafted.drafting import DraftLimits
from app.ml.engine.drafted.feeding import Feeding
from app.ml.engine.drafted.passes import FedAdapter, HostPass, build_pass, exact_shape
from app.ml.engine.drafted.questions import AnswerPlan, Question
from app.ml.engine.drafted.recall import nothing_likely
from app.ml.engine.drafted.trie import choose

_REPEATS = 30


def time_pass(engine: AnswerEngine, *, tokens: int, rows: int) -> float:
    """Returns the seconds of one pass of `rows` prompts with `tokens` tokens in all, with the first adapter in memory."""
    host = _host_pass(engine, tokens=tokens, rows=rows)
    drafted = engine.drafted
    assert drafted is not None
    runner = drafted.runner
    run = runner.run_eagerly if host.layout is not None else runner.captured.run  # type: ignore[union-attr]
    return _seconds(lambda: run(host), engine.base.device)


def time_constraint(engine: AnswerEngine, *, scored: int = 64) -> float:
    """Returns the seconds of the masked choice of one pass: from logits to edges and probabilities."""
    drafted = engine.drafted
    assert drafted is not None
    device, shelf = engine.base.device, drafted.shelf
    adapter = next(iter(shelf.loaded.values()))
    grammar, offset = adapter.vocabularies["closed"].grammar, adapter.vocabularies["closed"].edge_offset
    nodes = random.Random(0).choices(range(len(grammar.edge_start) - 1), k=scored)
    first = torch.tensor([offset + grammar.edge_start[node] for node in nodes], device=device)
    count = torch.tensor([grammar.edge_start[node + 1] - grammar.edge_start[node] for node in nodes], device=device)
    used = torch.full((scored, 8), -1, device=device)
    may_go_on = torch.ones(scored, dtype=torch.bool, device=device)
    temperature, smoothing = torch.ones(scored, device=device), torch.full((scored,), 0.05, device=device)
    logits = torch.randn(scored, shelf.columns.weight.shape[0], device=device)
    edges = shelf.edges.numbers
    width = max(32, shelf.most_edges)

    def run() -> None:
        choose(logits, edges, first, count, used, may_go_on, temperature, smoothing, width)

    if device.type != "cuda":
        return _seconds(run, device)
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return _seconds(graph.replay, device)


def _host_pass(engine: AnswerEngine, *, tokens: int, rows: int) -> HostPass:
    drafted = engine.drafted
    assert drafted is not None
    adapter = next(iter(drafted.shelf.loaded.values()))
    vocabulary = adapter.vocabularies["closed"]
    generator = random.Random(0)
    vocabulary_size = drafted.network.embedding.shape[0]
    feedings: list[Feeding] = []
    taken = []
    for index in range(rows):
        length = tokens // rows + (index < tokens % rows)
        prompt = [generator.randrange(3, vocabulary_size) for _ in range(length)]
        plan = AnswerPlan(
            vocabulary.grammar,
            vocabulary.arrays,
            engine.base.tokenizer.decode,
            nothing_likely(),
            vocabulary.training,
            1.0,
            0.0,
            1,
            None,
        )
        question = Question(prompt, plan)
        row = drafted.rows.take(prompt, -2 - index, room=8)
        assert row is not None
        taken.append(row)
        question.sit(row)
        feeding = question.feed(DraftLimits(0, 1.0), most_linear=length)
        assert feeding is not None
        feedings.append(feeding)
    for row in taken:
        row.tokens = []
        drafted.rows.give_back(row)
    adapters = [FedAdapter(adapter.slot, vocabulary.edge_offset)] * rows
    captured = drafted.runner.captured
    exact = exact_shape(feedings, adapters, captured.block_tokens(tokens) if captured else 16)
    shape = captured.shape_for(exact) if captured else None
    return build_pass(feedings, adapters, shape or exact, idle_place=drafted.rows.idle_place, is_eager=shape is None)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    for _ in range(3):
        call()
    if device.type != "cuda":
        times = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return median(times)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(_REPEATS + 1)]  # type: ignore[no-untyped-call]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return median(before.elapsed_time(after) for before, after in pairwise(events)) / 1e3
