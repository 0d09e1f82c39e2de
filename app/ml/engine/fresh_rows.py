"""Training rows made anew for each epoch, one by one as their step comes: a pure function of seed, epoch and place."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from app.ml.augmentation.augmenting import Augmentation
from app.ml.augmentation.code_exchange import CodeExchange
from app.ml.engine.batching import RowTokens, TokenRow
from app.ml.formats.example import Example
from app.ml.prompting import PromptRenderer, PromptView
from app.ml.tokens import TextTokenizer


@dataclass(frozen=True)
class FreshRows:
    """As many rows as fit into `cutoff_len`, in the file's order."""

    examples: Sequence[Example]
    places: Sequence[int]
    """Of the rows that fit, in `examples`."""
    tokens: RowTokens
    augmentation: Augmentation
    seed: int
    exchange: CodeExchange | None = None
    """None: codes stay what they are."""

    def __len__(self) -> int:
        return len(self.places)

    def row(self, place: int, epoch: int) -> TokenRow:
        """Returns a row as it is in an epoch."""
        example = self.examples[self.places[place]]
        chooser = random.Random(f"{self.seed}/{epoch}/{place}")
        codes = list(example.codes)
        if self.augmentation.spec.code_order == "shuffled":
            chooser.shuffle(codes)
        question = self.tokens.renderer.wrapper.strip(example.question)
        inferred = self.augmentation.inferred(question, chooser)
        if inferred is not None:
            question, codes = inferred[0], list(inferred[1])
        joined = self.augmentation.joined(question, codes, chooser)
        if joined is not None and self.tokens.fits(joined[1]):
            question, codes = joined[0], list(joined[1])
        question = self.augmentation.said_otherwise(question, chooser)
        hidden = self.augmentation.spec.prompt_neighbours_hidden
        view = PromptView(
            is_alone=chooser.random() < self.augmentation.spec.prompt_alone,
            own=self.tokens.solved(example),
            hides=(lambda: chooser.random() < hidden) if hidden else None,
        )
        if self.exchange is not None and chooser.random() < self.augmentation.spec.code_exchange_chance(len(self)):
            shown = self.tokens.shown(question, view)
            exchanged = self.exchange.exchanged(question, codes, shown, chooser)
            if exchanged is not None and self.tokens.fits(exchanged[1]):
                shown, codes = exchanged[0], list(exchanged[1])
            view = PromptView(shown=shown)
        row = self.tokens.row_of(question, codes, self.places[place], view)
        assert row is not None, "an answer's length does not depend on its codes' order"
        return row


def fresh_rows(
    examples: Sequence[Example], renderer: PromptRenderer, tokenizer: TextTokenizer, augmentation: Augmentation, *, seed: int
) -> FreshRows | None:
    """Returns the rows that a spec wants anew in each epoch; None where they stay the same.

    `augmentation`: made of these examples' bare questions.
    """
    spec = augmentation.spec
    if not spec.has_fresh_rows:
        return None
    tokens = RowTokens(renderer, tokenizer, spec.cutoff_len)
    places = [place for place, example in enumerate(examples) if tokens.fits(example.codes)]
    exchange = None
    if renderer.neighbours and spec.prompt_codes_exchanged:
        exchange = CodeExchange.of(code for example in examples for code in example.codes)
    return FreshRows(examples, places, tokens, augmentation, seed, exchange)
