"""What the answers are worth: right, valid, and those of the stepwise reference."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from app.ml.codes import AnswerGrammar
from app.ml.engine.decoding import decode_constrained
from app.ml.prompting import PromptRenderer
from app.ml.tokens import TextTokenizer
from bench.answer.contestant import Codes, Task

_BATCH_ROWS = 16
_SHOWN = 10


def is_valid(codes: Codes, grammar: AnswerGrammar) -> bool:
    """Walks an answer through the grammar: known codes, none twice, not too many."""
    if not codes or any(code not in grammar.vocabulary for code in codes):
        return False
    state = grammar.initial
    for token in grammar.encode_answer(codes):
        if token not in grammar.allowed(state):
            return False
        state = grammar.advance(state, token)
    return state.ended and grammar.codes_of(state) == tuple(codes)


def invalid_count(answers: Iterable[Codes], grammar: AnswerGrammar) -> int:
    """Returns how many answers the grammar refuses."""
    return sum(not is_valid(codes, grammar) for codes in answers)


def exact_match(tasks: Sequence[Task], given: Mapping[str, Codes], grammar: AnswerGrammar) -> dict[str, Any]:
    """Returns the share of right sets of codes: of all rows, of those whose codes were all trained, and of the others."""
    right: dict[str, list[bool]] = {"overall": [], "codes_trained": [], "a_code_untrained": []}
    for task in tasks:
        if task.expected is None or task.question not in given:
            continue
        is_right = set(given[task.question]) == set(task.expected)
        is_known = all(code in grammar.vocabulary for code in task.expected)
        right["overall"].append(is_right)
        right["codes_trained" if is_known else "a_code_untrained"].append(is_right)
    return {name: {"rows": len(rows), "share": round(sum(rows) / len(rows), 4)} for name, rows in right.items() if rows}


def stepwise_answers(
    network: Any,
    questions: Sequence[str],
    grammar: AnswerGrammar,
    *,
    renderer: PromptRenderer,
    tokenizer: TextTokenizer,
    device: torch.device,
) -> list[Codes]:
    """Answers with the reference: one token at a time, the full logits masked, in plain transformers and peft."""
    given: list[Codes] = []
    for start in range(0, len(questions), _BATCH_ROWS):
        prompts = [renderer.encode(question, tokenizer) for question in questions[start : start + _BATCH_ROWS]]
        answers = decode_constrained(network, prompts, grammar, pad_id=tokenizer.pad_id, device=device)
        given += [best.codes for (best,) in answers]
    return given


def gap_at_parting(
    network: Any,
    question: str,
    ours: Codes,
    stepwise: Codes,
    grammar: AnswerGrammar,
    *,
    renderer: PromptRenderer,
    tokenizer: TextTokenizer,
    device: torch.device,
) -> float:
    """Returns the reference's log-probability of its own token less that of ours where two answers part, nats.

    Logits of 16 to 32 in bf16 stand 0.125 apart: gaps of a few such steps are ties that another order of sums may turn.
    """
    left, right = grammar.encode_answer(stepwise), grammar.encode_answer(ours)
    same = next(place for place, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    ids = torch.tensor([[*renderer.encode(question, tokenizer), *left[:same]]], device=device)
    with torch.inference_mode():
        logits = network(input_ids=ids).logits[0, -1].float()
    return float(logits[left[same]] - logits[right[same]])


def agreement(questions: Sequence[str], ours: Mapping[str, Codes], reference: Sequence[Codes]) -> dict[str, Any]:
    """Returns the share of equal answers, and the first ten that differ."""
    apart = [
        {"question": question, "ours": list(ours[question]), "stepwise": list(codes)}
        for question, codes in zip(questions, reference, strict=True)
        if ours[question] != codes
    ]
    return {
        "agreement_with_stepwise": round(1 - len(apart) / len(questions), 4),
        "differing_from_stepwise": apart[:_SHOWN],
    }
