"""Malformed bodies for every route that takes JSON; the routes and their good bodies come from the API's own description."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.malformed.malformed_request import JSON, MalformedRequest, dice_of

GROUP = "JSON bodies"
_PLACE = "\x01place\x01"
_DEEP = 100_000
_MEGABYTE = 1 << 20

_WHOLE: Mapping[str, bytes] = {
    "empty": b"",
    "blanks": b" \n\t",
    "not JSON": b"{",
    "null": b"null",
    "true": b"true",
    "a number": b"12",
    "a text": b'"text"',
    "an array": b"[]",
    "an array of objects": b"[{}]",
    "NaN": b"NaN",
    "-Infinity": b"-Infinity",
    "5,000 digits": b"9" * 5_000,
    "deep array": b"[" * _DEEP,
    "deep array that closes": b"[" * _DEEP + b"]" * _DEEP,
    "deep object": b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
    "all bytes": bytes(range(256)),
    "a form": b"a=1&b=2",
    "XML": b"<a>1</a>",
    "over the limit": b'{"x": "' + b"a" * (17 * _MEGABYTE) + b'"}',
}
_VALUES: Mapping[str, str] = {
    "NaN": "NaN",
    "1e999": "1e999",
    "5,000 digits": "9" * 5_000,
    "100,000 levels": "[" * _DEEP + "]" * _DEEP,
    "25 levels": '{"a":' * 25 + "1" + "}" * 25,
    "half a pair": '"a\\ud800b"',
    "NUL": '"a\\u0000b"',
    "half a megabyte": '"%s"' % ("a" * (_MEGABYTE // 2)),
}


def bodies_of(document: Mapping[str, Any], ids: Mapping[str, str]) -> Iterator[MalformedRequest]:
    """Yields malformed bodies for each route of an OpenAPI document; `ids` fills the parameters of paths."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get(JSON)
            if body is not None:
                yield from _bodies_of_route(method.upper(), path, path.format_map(ids), _example(document, body["schema"]))


def _example(document: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    example: dict[str, Any] = schema["examples"][0]
    return example


def _bodies_of_route(method: str, shown: str, path: str, example: dict[str, Any]) -> Iterator[MalformedRequest]:
    def case(name: str, content: bytes, content_type: str | None = JSON) -> MalformedRequest:
        return MalformedRequest(GROUP, f"{method} {shown}: {name}", path, lambda: content, content_type, method)

    text = json.dumps(example, ensure_ascii=False)
    for name, content in _WHOLE.items():
        yield case(name, content)
    for name, value in _VALUES.items():
        yield case(f"an unknown name, {name}", f'{text[:-1]}, "lerning_rate": {value}}}'.encode())
    yield case("an unknown name", f'{text[:-1]}, "lerning_rate": 1}}'.encode())
    yield case("a name of half a megabyte", f'{text[:-1]}, "{"n" * (_MEGABYTE // 2)}": 1}}'.encode())
    names = ", ".join(f'"n{number}": 1' for number in range(20_000))
    yield case("20,000 names", f"{text[:-1]}, {names}}}".encode())
    yield case("half a pair for a name", f'{text[:-1]}, "\\ud800": 1}}'.encode())
    first = json.dumps(next(iter(example)))
    value = json.dumps(next(iter(example.values())), ensure_ascii=False)
    yield case("a name twice", f"{text[:-1]}, {first}: {value}}}".encode())
    yield case("a name twice, spelled otherwise", f'{text[:-1]}, "\\u{ord(first[1]):04x}{first[2:]}: {value}}}'.encode())
    for place, poisoned in _poisoned(example):
        for name, value in _VALUES.items():
            yield case(f"{place} is {name}", json.dumps(poisoned, ensure_ascii=False).replace(json.dumps(_PLACE), value).encode())
    data = text.encode()
    for end in sorted(dice_of(method, shown).sample(range(1, len(data)), 8)):
        yield case(f"cut after {end} bytes", data[:end])
    for encoding in ("utf-16", "utf-16-le", "utf-32", "cp500"):
        yield case(encoding, text.encode("ascii", "replace").decode().encode(encoding))
    yield case("GB18030", f'{text[:-1]}, "x": "取消"}}'.encode("gb18030"))
    yield case("words behind", data + b" and more")
    yield case("twice", data + data)
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "nonsense", None):
        yield case(f"as {content_type}", data, content_type)


def _poisoned(value: Any, place: str = "body") -> Iterator[tuple[str, Any]]:
    """Yields the value with a mark in the place of each of its parts."""
    if place != "body":
        yield place, _PLACE
    if isinstance(value, dict):
        for name, inner in value.items():
            for where, poisoned in _poisoned(inner, f"{place}.{name}"):
                yield where, {**value, name: poisoned}
    elif isinstance(value, list) and value:
        for where, poisoned in _poisoned(value[0], f"{place}[0]"):
            yield where, [poisoned, *value[1:]]
