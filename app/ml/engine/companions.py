"""What stands in an adapter's folder beside its weights, and is needed to answer with it."""

from dataclasses import dataclass
from pathlib import Path

from app.ml.adapter_card import AdapterCard, write_card
from app.ml.engine.code_classifier import CodeClassifier
from app.ml.engine.question_index import QuestionIndex


@dataclass(frozen=True)
class Companions:
    """An adapter's card, the index of its training questions, and its classifier if it has one."""

    card: AdapterCard
    index: QuestionIndex
    classifier: CodeClassifier | None = None

    def save(self, folder: Path) -> None:
        """Writes them into an adapter's folder."""
        write_card(folder, self.card)
        self.index.save(folder)
        if self.classifier is not None:
            self.classifier.save(folder)
