import json
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import app.console
from app.access.scopes import Scope
from app.answers.fallback import FallbackReason
from app.answers.reviews import Verdict as ReviewVerdict
from app.answers.variants import Variant
from app.console.experiment_pages import KINDS
from app.console.export_pages import FORMATS
from app.console.forms import SPEC_FIELDS, SPEC_SWITCHES
from app.console.key_pages import ENDINGS
from app.console.pages import SECTIONS
from app.console.words import LANGUAGES, catalogue, choose_language
from app.errors import Kind
from app.experiments.service import ArmStatus
from app.jobs.states import JobStatus
from app.ml.formats.notes import _MESSAGES
from app.ml.paired import Verdict
from app.ml.spec import PRESETS

FOLDER = Path(app.console.__file__).parent


def _recorded_acts() -> list[str]:
    """Every act that some module of the product records."""
    modules = (path.read_text("utf-8") for path in FOLDER.parent.rglob("*.py"))
    return sorted({act for text in modules for act in re.findall(r'audit\.record\([^"]*"([\w.]+)"', text)})


KEYS = set(catalogue("en"))
# A key that ends with what only a running product knows: these must all be there.
COMPOSED = {
    "nav.": list(SECTIONS),
    "status.": [status.value for status in (*JobStatus, *ArmStatus)],
    "experiment.kind.": list(KINDS),
    "experiment.kind_note.": list(KINDS),
    "verdict.": [verdict.replace(" ", "_") for verdict in Verdict.__args__],  # type: ignore[attr-defined]
    "error.title.": list(Kind),
    "error.next.": list(Kind),
    "review.verdict.": list(ReviewVerdict.__args__),  # type: ignore[attr-defined]
    "review.say.": list(ReviewVerdict.__args__),  # type: ignore[attr-defined]
    "variant.": list(Variant.__args__),  # type: ignore[attr-defined]
    "fallback.": list(FallbackReason.__args__),  # type: ignore[attr-defined]
    "preset.": list(PRESETS),
    "export.format_note.": list(FORMATS),
    "key.scope_note.": list(Scope),
    "key.ending.": list(ENDINGS),
    "audit.act.": _recorded_acts(),
    "warning.": list(_MESSAGES),
    "spec.": [*SPEC_FIELDS, *SPEC_SWITCHES],
}


def _used() -> set[str]:
    found = set()
    for path in [*FOLDER.glob("templates/*.html"), *FOLDER.glob("*.py")]:
        found |= set(re.findall(r"""\b(?:t|words)\(\s*["']([a-z_]+\.[\w.-]*[\w])["'](?!\s*~)""", path.read_text("utf-8")))
    return found


def test_both_languages_have_the_same_keys() -> None:
    assert set(catalogue("zh")) == KEYS


@pytest.mark.parametrize("key", sorted(KEYS))
def test_both_languages_fill_in_the_same_places(key: str) -> None:
    places = [{name for _, name, _, _ in string.Formatter().parse(catalogue(one)[key]) if name} for one in LANGUAGES]

    assert places[0] == places[1]


def test_every_word_that_a_page_says_is_in_the_catalogue() -> None:
    used = _used()

    assert len(used) > 150
    assert used - KEYS == set()


def test_every_word_that_is_composed_is_in_the_catalogue() -> None:
    missing = {f"{prefix}{end}" for prefix, ends in COMPOSED.items() for end in ends} - KEYS

    assert missing == set()


def test_the_acts_of_the_audit_log_are_found_in_the_modules_that_record_them() -> None:
    assert {"key.created", "alias.changed", "codebook.replaced"} <= set(_recorded_acts())


def test_no_word_of_the_catalogue_is_unused() -> None:
    text = "\n".join(path.read_text("utf-8") for path in [*FOLDER.glob("templates/*.html"), *FOLDER.glob("*.py")])
    prefixes = set(re.findall(r"""["']([a-z_]+\.(?:[\w-]+\.)*)["']\s*~""", text))
    prefixes |= set(re.findall(r"""f["']([a-z_]+\.)\{""", text)) | {"evaluation.rows_", "done.", "job."}

    unused = {key for key in KEYS if f'"{key}"' not in text and f"'{key}'" not in text and not key.startswith(tuple(prefixes))}
    assert unused == set()


def test_a_catalogue_names_no_key_twice() -> None:
    for language in LANGUAGES:
        pairs = json.loads((FOLDER / "words" / f"{language}.json").read_text("utf-8"), object_pairs_hook=lambda pairs: pairs)
        assert len(pairs) == len(dict(pairs))


@pytest.mark.parametrize(
    ("wished", "remembered", "accepted", "language"),
    [
        ("en", "zh", "zh-CN", "en"),
        (None, "zh", "en", "zh"),
        ("klingon", None, "fr;q=0.9, en-GB;q=0.8, zh;q=0.2", "en"),
        (None, None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, None, "", "zh"),
    ],
)
def test_the_language_is_the_wished_one_or_the_browsers(
    wished: str | None, remembered: str | None, accepted: str, language: str
) -> None:
    assert choose_language(wished, remembered, accepted) == language


@given(st.text(max_size=60))
def test_any_accept_language_gives_a_language(header: str) -> None:
    assert choose_language(None, None, header) in LANGUAGES
