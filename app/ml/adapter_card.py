"""What an adapter says of itself, beside its weights: everything that is needed to answer with it.

File name in the adapter's folder: `dianda.json`. Older versions must stay readable.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from app.ml.calibration import Calibration, find_calibration
from app.ml.code_tokens import CodeTokenizer, without_codes
from app.ml.codes import AnswerGrammar, AnswerMode, CodeVocabulary
from app.ml.novelty_limit import NoveltyLimit
from app.ml.prompting import PromptRenderer, Wrapper
from app.ml.spec import FinetuneSpec, spec_from_mapping
from app.ml.tokens import TextTokenizer

CARD = "dianda.json"
CARD_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class AdapterCard:
    """Facts of one trained adapter."""

    base_model: str
    base_model_checksum: str
    dataset_checksum: str
    spec: FinetuneSpec
    precision: str
    """The arithmetic it was trained in: `bf16` or `fp32`."""
    seed: int
    wrapper: Wrapper
    vocabulary: CodeVocabulary
    metrics: dict[str, object]
    versions: dict[str, str]
    calibration: Calibration | None = None
    """None: confidences are the model's own, uncalibrated."""
    novelty: NoveltyLimit | None = None
    """None: no question is called out of scope."""
    code_token_ids: tuple[int, ...] | None = None
    """The token of each code of the vocabulary, in its order; None: codes are spelled."""
    has_classifier: bool = False
    """Whether a linear classifier beside the weights has a say in the answers."""

    @property
    def renderer(self) -> PromptRenderer:
        """The prompt renderer that the adapter was trained with; where it shows training questions, they must be bound to it."""
        return PromptRenderer(
            self.spec.template,
            self.wrapper,
            self.spec.prompt_neighbours,
            self.spec.prompt_neighbours_by,
            repeats=self.spec.prompt_repeats_question,
        )

    def tokenizer_on(self, base: TextTokenizer) -> TextTokenizer:
        """Returns the tokenizer of the adapter's prompts and answers, from the base model's or another adapter's on it."""
        base = without_codes(base)
        if self.code_token_ids is None:
            return base
        return CodeTokenizer(base, dict(zip(self.vocabulary.codes, self.code_token_ids, strict=True)))

    def grammar_on(self, base: TextTokenizer, mode: AnswerMode = "closed") -> AnswerGrammar:
        """Returns the grammar of the adapter's answers; codes that are single tokens leave no room for values of other kinds.

        Raises:
            ValueError: as `AnswerGrammar`.
        """
        tokenizer = self.tokenizer_on(base)
        mode = "closed" if self.code_token_ids is not None and mode == "open_values" else mode
        return AnswerGrammar(self.vocabulary, tokenizer.encode, end_id=tokenizer.eos_id, mode=mode)


def write_card(folder: Path, card: AdapterCard) -> None:
    """Writes `dianda.json` into an adapter's folder."""
    mapping = {
        "version": CARD_VERSION,
        **asdict(card),
        "spec": card.spec.to_mapping(),
        "calibration": None if card.calibration is None else card.calibration.to_mapping(),
    }
    (folder / CARD).write_text(json.dumps(mapping, ensure_ascii=False, indent=1))


def read_card(folder: Path) -> AdapterCard:
    """Reads `dianda.json` of an adapter's folder."""
    mapping = json.loads((folder / CARD).read_text())
    vocabulary = mapping["vocabulary"]
    return AdapterCard(
        base_model=mapping["base_model"],
        base_model_checksum=mapping["base_model_checksum"],
        dataset_checksum=mapping["dataset_checksum"],
        spec=spec_from_mapping(mapping["spec"]),
        precision=mapping["precision"],
        seed=mapping["seed"],
        wrapper=Wrapper(**mapping["wrapper"]),
        vocabulary=CodeVocabulary(tuple(vocabulary["codes"]), vocabulary["max_codes_per_answer"]),
        metrics=mapping["metrics"],
        versions=mapping["versions"],
        calibration=find_calibration(mapping["calibration"]),
        # Cards of before have none.
        novelty=None if mapping.get("novelty") is None else NoveltyLimit(**mapping["novelty"]),
        code_token_ids=None if mapping.get("code_token_ids") is None else tuple(mapping["code_token_ids"]),
        has_classifier=mapping.get("has_classifier", False),
    )
