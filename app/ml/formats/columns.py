"""Which column is the question, which the answer, and which are kept as slices for evaluation.

A mapping comes from the user's `columns`, from an entry of LLaMA-Factory's `dataset_info.json`, or from the headings that
are known by themselves: Alpaca's, OpenAI's habits, and those of CCKS2021's 运营商知识图谱推理问答.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from app.errors import InvalidInput
from app.ml.formats.storable import unusable_text

# CCKS2021's columns beside question and answer.
SLICE_HEADINGS = ("答案类型", "属性名", "实体", "约束属性名", "约束属性值", "约束算子")
_QUESTIONS = ("instruction", "question", "用户问题", "问题", "prompt", "query")
_INPUTS = ("input",)
_ANSWERS = ("output", "answer", "答案", "response", "completion")
# The words of `columns`: ours, Alpaca's and LLaMA-Factory's.
_ROLES = {
    "question": "question",
    "instruction": "question",
    "prompt": "question",
    "input": "input",
    "query": "input",
    "answer": "answer",
    "output": "answer",
    "response": "answer",
    "messages": "messages",
}
# LLaMA-Factory's columns that have no place in a question or an answer.
_UNUSED_ROLES = frozenset({"system", "history", "tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag"})


@dataclass(frozen=True)
class ChatTags:
    """How a chat message says who speaks and what; OpenAI's words unless `dataset_info.json` has others."""

    role: str = "role"
    content: str = "content"
    user: str = "user"
    assistant: str = "assistant"
    system: tuple[str, ...] = ("system", "developer")


@dataclass(frozen=True)
class ColumnMapping:
    """Names of a file's columns (or of a JSON row's fields)."""

    question: str = "instruction"
    answer: str = "output"
    input: str | None = "input"
    """A second part of the question, joined by a line break."""
    slices: Mapping[str, str] = field(default_factory=lambda: {name: name for name in SLICE_HEADINGS})
    """Name of the slice -> column; a row without it just has no such slice."""
    messages: str | None = None
    """The field that holds a chat, in chat files."""
    tags: ChatTags = ChatTags()

    def to_mapping(self, *, present: Iterable[str] | None = None) -> dict[str, object]:
        """Returns the JSON form for the report; with `present`, only slices of columns that the file has."""
        if self.messages is not None:
            return {"messages": self.messages}
        known = None if present is None else set(present)
        slices = {name: column for name, column in self.slices.items() if known is None or column in known}
        given = {"question": self.question, "input": self.input, "answer": self.answer}
        if known is not None and self.input not in known:
            del given["input"]
        return {**given, "slices": slices} if slices else dict(given)


@dataclass(frozen=True)
class ColumnWish:
    """What the user says of the columns; the rest is found by heading."""

    question: str | None = None
    answer: str | None = None
    input: str | None = None
    slices: Mapping[str, str] | None = None
    messages: str | None = None
    tags: ChatTags | None = None

    def resolve(self, headings: Iterable[str], *, may_lack_input: bool = False) -> ColumnMapping | None:
        """Returns the mapping for these headings, or None where they have no question or no answer.

        `may_lack_input` is for JSON rows, each of which has its own fields: a later row may have an `input`.
        """
        known = {heading.strip().casefold(): heading for heading in reversed(list(headings))}
        if self.messages is not None or (self.question is None and self.answer is None and "messages" in known):
            name = self.messages or known["messages"]
            return ColumnMapping(messages=name, tags=self.tags or ChatTags()) if name in known.values() else None
        question = self._found(self.question, _QUESTIONS, known)
        answer = self._found(self.answer, _ANSWERS, known)
        if question is None or answer is None or question == answer:
            return None
        second = self._found(self.input, _INPUTS if self.question is None else (), known)
        if second is None and may_lack_input:
            second = self.input or (_INPUTS[0] if self.question is None else None)
        if second is None and self.input is not None:
            return None
        wanted = self.slices if self.slices is not None else {name: name for name in SLICE_HEADINGS}
        slices = {name: known.get(column.strip().casefold(), column) for name, column in wanted.items()}
        return ColumnMapping(question, answer, second, slices)

    def fallback(self) -> ColumnMapping:
        """Returns the mapping under which a row that has none of the headings is judged."""
        standard = ColumnMapping(tags=self.tags or ChatTags(), messages=self.messages)
        return ColumnMapping(
            self.question or standard.question,
            self.answer or standard.answer,
            self.input or (standard.input if self.question is None else None),
            standard.slices if self.slices is None else self.slices,
            self.messages,
            standard.tags,
        )

    @staticmethod
    def _found(given: str | None, aliases: Iterable[str], known: Mapping[str, str]) -> str | None:
        wanted = aliases if given is None else (given.strip().casefold(),)
        return next((known[name] for name in wanted if name in known), None)


def wish_from_columns(columns: Mapping[str, object]) -> ColumnWish:
    """Reads the field `columns`: `{"question": …, "answer": …, "input": …, "slices": [names] or {slice: column}}`.

    Raises:
        InvalidInput: a role is unknown, named twice, or its value is no column name.
    """
    roles: dict[str, str] = {}
    slices: Mapping[str, str] | None = None
    for key, value in columns.items():
        if key == "slices":
            slices = _slices(value)
            continue
        role = _ROLES.get(key)
        if role is None:
            raise InvalidInput(f"columns has the unknown key {key!r}. Known: {', '.join(_ROLES)}, slices.", param="columns")
        if role in roles:
            raise InvalidInput(f"columns names the {role} twice.", param="columns")
        roles[role] = _column_name(value, f"columns.{key}")
    return _wish(roles, slices)


def wish_from_dataset_info(info: Mapping[str, object], *, filename: str) -> ColumnWish:
    """Reads one entry of LLaMA-Factory's `dataset_info.json`, or the whole file, whose entry is chosen by `filename`.

    Raises:
        InvalidInput: no entry fits the file's name, or the entry is not of that form.
    """
    entry = _entry_of(info, filename)
    columns = entry.get("columns") or {}
    tags = entry.get("tags") or {}
    if not isinstance(columns, Mapping) or not isinstance(tags, Mapping):
        raise InvalidInput("dataset_info: columns and tags must be objects.", param="dataset_info")
    is_chat = entry.get("formatting", "alpaca") in ("sharegpt", "openai")
    roles: dict[str, str] = {}
    for key, value in columns.items():
        if key in _UNUSED_ROLES:
            continue
        if key not in ("prompt", "query", "response", "messages"):
            raise InvalidInput(f"dataset_info: columns has the unknown key {key!r}.", param="dataset_info")
        roles[_ROLES[key]] = _column_name(value, f"columns.{key}", param="dataset_info")
    if not is_chat:
        roles.pop("messages", None)
        return _wish(roles, None)
    # LLaMA-Factory's defaults of the ShareGPT form.
    words = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "system_tag": "system"}
    if entry.get("formatting") == "openai":
        words = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    for key, value in tags.items():
        words[str(key)] = _column_name(value, f"tags.{key}", param="dataset_info")
    return ColumnWish(
        messages=roles.get("messages", "conversations"),
        tags=ChatTags(
            words["role_tag"],
            words["content_tag"],
            words["user_tag"],
            words["assistant_tag"],
            (words.get("system_tag", "system"), "system", "developer"),
        ),
    )


def _wish(roles: Mapping[str, str], slices: Mapping[str, str] | None) -> ColumnWish:
    return ColumnWish(roles.get("question"), roles.get("answer"), roles.get("input"), slices, roles.get("messages"))


def _entry_of(info: Mapping[str, object], filename: str) -> Mapping[str, object]:
    if any(key in info for key in ("file_name", "columns", "formatting", "tags")) or not info:
        return info
    name = filename.replace("\\", "/").rpartition("/")[2]
    for key, entry in info.items():
        if not isinstance(entry, Mapping):
            raise InvalidInput(f"dataset_info: the entry {key!r} must be an object.", param="dataset_info")
        file_name = entry.get("file_name")
        stored = file_name.replace("\\", "/").rpartition("/")[2] if isinstance(file_name, str) else None
        if name and (stored == name or (stored is None and key == name.rpartition(".")[0])):
            return entry
    known = ", ".join(repr(key) for key in list(info)[:20])
    raise InvalidInput(f"dataset_info has no entry whose file_name is {filename!r}. Entries: {known}.", param="dataset_info")


def _slices(value: object) -> Mapping[str, str]:
    pairs = value.items() if isinstance(value, Mapping) else [(name, name) for name in value] if isinstance(value, list) else None
    if pairs is None:
        raise InvalidInput("columns.slices must be a list of columns, or an object from slice to column.", param="columns")
    found = {_column_name(name, "columns.slices"): _column_name(column, "columns.slices") for name, column in pairs}
    if len(found) > 20:
        raise InvalidInput("columns.slices names more than 20 slices.", param="columns")
    return found


def _column_name(value: object, place: str, *, param: str = "columns") -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 200 or unusable_text(value):
        raise InvalidInput(f"{place} must be the name of a column.", param=param)
    return value.strip()
