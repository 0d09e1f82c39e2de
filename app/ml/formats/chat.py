"""OpenAI's chat rows: the last user message is the question, the assistant's message after it the answer."""

from collections.abc import Mapping

from app.ml.formats.columns import ChatTags, ColumnMapping
from app.ml.formats.example import Example, Findings, RowError, json_type, make_example
from app.ml.formats.storable import unusable_text


def example_from_chat(
    row: int, fields: Mapping[str, object], columns: ColumnMapping, *, findings: Findings | None
) -> Example | RowError:
    """Checks a chat row; a system message and earlier turns are left out with a warning."""
    name, tags = columns.messages or "messages", columns.tags
    messages = fields.get(name)
    if messages is None:
        return RowError(row, name, "is missing")
    if not isinstance(messages, list):
        return RowError(row, name, f"must be a list of messages, not {json_type(messages)}")
    turns: list[tuple[str, int, str]] = []
    has_system = False
    for number, message in enumerate(messages):
        place = f"{name}[{number}]"
        if not isinstance(message, Mapping):
            return RowError(row, place, f"must be an object with {tags.role} and {tags.content}")
        role = message.get(tags.role)
        if role in tags.system:
            has_system = True
            continue
        if role not in (tags.user, tags.assistant):
            return RowError(row, f"{place}.{tags.role}", f"must be {tags.user!r}, {tags.assistant!r} or {tags.system[0]!r}")
        text = _text_of(message.get(tags.content))
        if text is None:
            return RowError(row, f"{place}.{tags.content}", f"must be text, not {json_type(message.get(tags.content))}")
        if reason := unusable_text(text):
            return RowError(row, f"{place}.{tags.content}", reason)
        turns.append((str(role), number, text.strip()))
    return _last_turn(row, name, turns, tags, has_system=has_system, findings=findings)


def _last_turn(
    row: int, name: str, turns: list[tuple[str, int, str]], tags: ChatTags, *, has_system: bool, findings: Findings | None
) -> Example | RowError:
    asked = max((place for place, turn in enumerate(turns) if turn[0] == tags.user), default=None)
    if asked is None:
        return RowError(row, name, f"has no message of the role {tags.user!r}")
    if asked + 1 >= len(turns):
        return RowError(row, name, f"has no message of the role {tags.assistant!r} after the last question")
    if len(turns) > asked + 2:
        return RowError(row, name, f"has two messages of the role {tags.assistant!r} after the last question")
    (_, question_number, question), (_, answer_number, answer) = turns[asked], turns[asked + 1]
    example = make_example(
        row,
        question,
        answer,
        {},
        question_field=f"{name}[{question_number}].{tags.content}",
        answer_field=f"{name}[{answer_number}].{tags.content}",
        findings=findings,
    )
    if isinstance(example, Example) and findings is not None:
        if has_system:
            findings.notes.add("system_messages_ignored", row)
        if asked > 0:
            findings.notes.add("earlier_turns_ignored", row)
    return example


def _text_of(content: object) -> str | None:
    """Returns a message's text; OpenAI also allows a list of text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
    if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
        return None
    return "".join(str(text) for text in texts)
