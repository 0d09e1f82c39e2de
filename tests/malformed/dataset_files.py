"""Dataset files that nobody should train on: broken in every format, place and encoding."""

import csv
import io
import json
from collections.abc import Iterator
from functools import partial

from tests.app.ml.formats.tables import HEADING, Table, text_of, workbook_of
from tests.malformed.forms import upload
from tests.malformed.malformed_request import MalformedRequest, dice_of

_TABLE: Table = [
    ("百度流量月包怎么取消", "取消方式_12"),
    ("他说闪电宽带好，对吗", "业务简介_111|9.9"),
    ("怎么开通彩铃", "开通方式_98|开通方式_97"),
    ("😀 国际漫游多少钱", "资费_5"),
]
_NAMES = {"json": "a.json", "jsonl": "a.jsonl", "chat": "c.jsonl", "csv": "a.csv", "tsv": "a.tsv", "xlsx": "a.xlsx"}
_MEGABYTE = 1 << 20
_LONG_LINE_BYTES = 50 * _MEGABYTE
_DEEP = 100_000


def malformed_files() -> Iterator[MalformedRequest]:
    """Yields every malformed file as an upload."""
    for make in (
        _truncated,
        _of_wrong_encoding,
        _of_wrong_json,
        _of_wrong_values,
        _tables,
        _empty,
        _noise,
    ):
        yield from make()


def _text(kind: str) -> str:
    if kind in ("csv", "tsv"):
        out = io.StringIO()
        writer = csv.writer(out, delimiter="," if kind == "csv" else "\t", quoting=csv.QUOTE_ALL)
        writer.writerows([HEADING, *_TABLE])
        return out.getvalue()
    return text_of(_TABLE, kind)


def _truncated() -> Iterator[MalformedRequest]:
    for kind, count in (("json", 90), ("jsonl", 90), ("chat", 90), ("csv", 80), ("tsv", 60), ("xlsx", 60)):
        data = workbook_of([HEADING, *_TABLE]) if kind == "xlsx" else _text(kind).encode()
        # An array or an archive is broken wherever it ends; a line or a record only inside.
        first = 1 if kind in ("json", "xlsx") else data.rstrip().rindex(b"\n") + 2
        ends = range(first, len(data.rstrip()) if kind != "xlsx" else len(data) - 1)
        for end in sorted(dice_of("truncated", kind).sample(ends, min(count, len(ends)))):
            yield upload("truncated files", f"{kind} cut after {end} bytes", data[:end], filename=_NAMES[kind])


def _of_wrong_encoding() -> Iterator[MalformedRequest]:
    def case(name: str, data: bytes, kind: str, **fields: str) -> MalformedRequest:
        return upload("wrong encodings", f"{kind}: {name}", data, filename=_NAMES[kind], **fields)

    for kind in ("json", "jsonl", "chat", "csv", "tsv"):
        text = _text(kind)
        utf8, gbk, utf16 = text.encode(), text.encode("gb18030"), text.encode("utf-16-le")
        yield case("GBK called UTF-8", gbk, kind, encoding="utf-8")
        for named in ("gbk", "gb2312", "gb18030", "cp936"):
            yield case(f"UTF-8 called {named}", utf8, kind, encoding=named)
        yield case("UTF-8 with its mark called GBK", b"\xef\xbb\xbf" + utf8, kind, encoding="gbk")
        yield case("UTF-8 called UTF-16", utf8 + b"\n" * (len(utf8) % 2), kind, encoding="utf-16")
        yield case("UTF-8 of an odd length called UTF-16", utf8 + b"\n" * (1 - len(utf8) % 2), kind, encoding="utf-16")
        yield case("UTF-16 without a mark", utf16, kind)
        yield case("UTF-16 called UTF-8", utf16, kind, encoding="utf-8")
        yield case("UTF-16 called GBK", utf16, kind, encoding="gbk")
        yield case("UTF-16 of the other order", b"\xff\xfe" + text.encode("utf-16-be"), kind)
        yield case("UTF-16 of an odd length", b"\xff\xfe" + utf16[:-1], kind)
        yield case("UTF-16 with half a pair", b"\xff\xfe" + utf16[:40] + b"\x00\xd8" + utf16[40:], kind)
        yield case("UTF-16 whose mark is called UTF-8", b"\xff\xfe" + utf16, kind, encoding="utf-8")
        yield case("UTF-32", text.encode("utf-32"), kind)
        yield case("UTF-7", text.replace("取消", "+U9Zt-").encode("utf-7"), kind, encoding="utf-7")
        yield case("Latin-1", text.translate({ord(c): "é" for c in text if ord(c) > 127}).encode("latin-1"), kind)
        yield case("EBCDIC", text.encode("ascii", "replace").decode("ascii").encode("cp500"), kind)
        yield case("two encodings in one file", utf8 + gbk, kind)
        yield case("a surrogate as three bytes", utf8.replace("取".encode(), b"\xed\xa0\x80", 1), kind)
        yield case("an overlong slash", utf8.replace("取".encode(), b"\xc0\xaf", 1), kind)
        yield case("beyond Unicode", utf8.replace("取".encode(), b"\xf5\x80\x80\x80", 1), kind)
        yield case("half a character in the middle", utf8.replace("取".encode(), "取".encode()[:2], 1), kind)
        yield case("NUL in the text", utf8.replace("取".encode(), b"\x00", 1), kind)
        for named in ("latin-1", "cp1252", "utf-8\x00", "UTF 8", "hex", "idna", "unicode_escape", "zlib"):
            yield case(f"called {named!r}", utf8, kind, encoding=named)


def _of_wrong_json() -> Iterator[MalformedRequest]:
    def case(name: str, data: "bytes | partial[bytes]", kind: str = "json") -> MalformedRequest:
        return upload("wrong JSON", f"{kind}: {name}", data, filename=_NAMES[kind])

    row = json.dumps({"instruction": "怎么取消", "output": "取消方式_12"}, ensure_ascii=False).encode()
    for name, data in {
        "no comma": b"[" + row + row + b"]",
        "two commas": b"[" + row + b",," + row + b"]",
        "comma at the end": b"[" + row + b",]",
        "two arrays": b"[" + row + b"][" + row + b"]",
        "words behind": b"[" + row + b"] and more",
        "comment": b"[/* rows */" + row + b"]",
        "single quotes": b"[{'instruction': 'a', 'output': 'b_1'}]",
        "names without quotes": b'[{instruction: "a", output: "b_1"}]',
        "an object of lists": b'{"instruction": ["a"], "output": ["b_1"]}',
        "wrapped": b'{"data": [' + row + b"]}",
        "wrong bracket": b"[" + row + b"}",
        "text": b'"rows"',
        "number": b"12",
        "null": b"null",
        "NaN": b"NaN",
        "empty array": b"[]",
        "empty object": b"{}",
        "array of arrays": b'[["a", "b_1"]]',
        "array of texts": b'["a", "b_1"]',
        "array of numbers": b"[1, 2]",
        "array of nulls": b"[null, null]",
        "line end in a text": b'[{"instruction": "a\nb", "output": "b_1"}]',
        "unknown escape": b'[{"instruction": "a\\x", "output": "b_1"}]',
        "half an escape": b'[{"instruction": "a\\u12", "output": "b_1"}]',
        "leading zero": b'[{"instruction": 01, "output": "b_1"}]',
        "hexadecimal": b'[{"instruction": 0x1, "output": "b_1"}]',
        "deep array": b"[" * _DEEP,
        "deep array that closes": b"[" * _DEEP + b"]" * _DEEP,
        "deep object": b'[{"a":' * (_DEEP // 2),
        "deep objects in a row": b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
        "deep question": b'[{"instruction": ' + b"[" * _DEEP + b"]" * _DEEP + b', "output": "b_1"}]',
        "deep field that nobody reads": b'[{"instruction": "a", "output": "b_1", "x": ' + b"[" * _DEEP + b"]" * _DEEP + b"}]",
        "25 levels": b'[{"instruction": ' + b"[" * 25 + b"]" * 25 + b', "output": "b_1"}]',
    }.items():
        for kind in ("json", "jsonl", "chat"):
            yield case(name, data, kind)
    for kind in ("json", "jsonl", "chat"):
        yield case("one line of 50 MB", partial(_long_json_line, kind), kind)
    for name, head in {
        "a name of 1 MB": b'"%s": 1' % (b"n" * _MEGABYTE),
        "10,000 names": b",".join(b'"%d": 1' % n for n in range(10_000)),
    }.items():
        for kind in ("json", "jsonl"):
            yield case(name, b"[{%s}]" % head if kind == "json" else b"{%s}" % head, kind)


def _long_json_line(kind: str) -> bytes:
    long = b"a" * _LONG_LINE_BYTES
    line = b'{"instruction": "%s", "output": "b_1"}' % long
    if kind == "chat":
        line = b'{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "b_1"}]}' % long
    return b"[%s]" % line if kind == "json" else line


_POISONS = {
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "1e999": "1e999",
    "5,000 digits": "9" * 5_000,
    "a float of 5,000 digits": "0." + "9" * 5_000,
    "a number": "12",
    "true": "true",
    "null": "null",
    "a list": '["a"]',
    "an object": '{"a": 1}',
    "an empty text": '""',
    "blanks": '" \\t\\n\\u3000"',
    "half a pair": '"a\\ud800b"',
    "half a pair, the other": '"a\\udc00b"',
    "pair the wrong way round": '"\\udc00\\ud800"',
    "NUL": '"a\\u0000b"',
    "10,000 characters": '"%s"' % ("字" * 10_000),
}
_QUOTED_CODES = json.dumps("|".join(f"a_{number}" for number in range(1_000)))
_ANSWER_POISONS = {
    "separator at the end": '"取消方式_12|"',
    "separator at the start": '"|取消方式_12"',
    "only separators": '"|||"',
    "two separators": '"a_1||b_2"',
    "1,000 codes": _QUOTED_CODES,
    "a code of 500 characters": '"%s_1"' % ("a" * 500),
}


def _of_wrong_values() -> Iterator[MalformedRequest]:
    """Yields files whose second row holds one value that cannot be used."""

    def case(name: str, row: str, kind: str) -> MalformedRequest:
        good = text_of(_TABLE[:1], "chat").strip() if kind == "chat" else '{"instruction": "怎么开通", "output": "开通方式_98"}'
        data = f"[{good},{row}]" if kind == "json" else f"{good}\n{row}\n"
        return upload("wrong values", f"{kind}: {name}", data.encode(), filename=_NAMES[kind])

    for kind in ("json", "jsonl"):
        for field, other in (("instruction", '"output": "a_1"'), ("output", '"instruction": "问题"')):
            for name, value in {**_POISONS, **(_ANSWER_POISONS if field == "output" else {})}.items():
                yield case(f"{field} is {name}", f'{{"{field}": {value}, {other}}}', kind)
            yield case(f"{field} is missing", f"{{{other}}}", kind)
            yield case(f"{field} stands there twice", f'{{"{field}": "a_1", "{field}": "a_2", {other}}}', kind)
            yield case(f"{field} stands there twice alike", f'{{"{field}": "a_1", {other}, "{field}": "a_1"}}', kind)
        for name in ("NaN", "5,000 digits", "a list", "an object", "half a pair", "NUL"):
            yield case(f"input is {name}", f'{{"instruction": "问", "input": {_POISONS[name]}, "output": "a_1"}}', kind)
        for name in ("NaN", "Infinity", "half a pair"):
            if (name, kind) != ("half a pair", "json"):
                yield case(f"unread is {name}", f'{{"instruction": "问", "output": "a_1", "x": {_POISONS[name]}}}', kind)
        yield case("a name twice in what nobody reads", '{"instruction": "问", "output": "a_1", "x": {"y": 1, "y": 2}}', kind)
    user, assistant = '{"role": "user", "content": "问"}', '{"role": "assistant", "content": "a_1"}'
    for name, value in {**_POISONS, **_ANSWER_POISONS}.items():
        yield case(f"answer is {name}", f'{{"messages": [{user}, {{"role": "assistant", "content": {value}}}]}}', "chat")
    for name, value in _POISONS.items():
        yield case(f"question is {name}", f'{{"messages": [{{"role": "user", "content": {value}}}, {assistant}]}}', "chat")
        yield case(f"role is {name}", f'{{"messages": [{{"role": {value}, "content": "问"}}, {assistant}]}}', "chat")
        if name != "a list":
            yield case(f"messages is {name}", f'{{"messages": {value}}}', "chat")
    for name, messages in {
        "no message": "",
        "only a question": user,
        "only an answer": assistant,
        "answer before question": f"{assistant}, {user}",
        "two answers": f"{user}, {assistant}, {assistant}",
        "a role twice": f'{{"role": "user", "role": "assistant", "content": "问"}}, {assistant}',
        "a tool": f'{user}, {{"role": "tool", "content": "x"}}, {assistant}',
    }.items():
        yield case(name, f'{{"messages": [{messages}]}}', "chat")


def _tables() -> Iterator[MalformedRequest]:
    def case(name: str, data: "bytes | partial[bytes]", kind: str) -> MalformedRequest:
        return upload("tables", f"{kind}: {name}", data, filename=_NAMES[kind])

    for kind, sign in (("csv", b","), ("tsv", b"\t")):
        head = b"question" + sign + b"answer\n"
        good = "怎么取消".encode() + sign + "取消方式_12\n".encode()
        for name, data in {
            "no heading": good * 3,
            "another heading": b"foo" + sign + b"bar\n" + good,
            "only a heading": head,
            "only a question": b"question\nq\n",
            "an answer twice": b"question" + sign + b"answer" + sign + b"answer\n" + b"q" + sign + b"a_1" + sign + b"a_2\n",
            "a cell too many": head + good + b"q" + sign + b"a_1" + sign + b"more\n",
            "a cell too few": head + good + b"q\n",
            "3,000 columns": sign.join(b"c%d" % n for n in range(3_000)) + b"\n",
            "a row of 3,000 cells": head + sign.join([b"x"] * 3_000) + b"\n",
            "a row of 300,000 cells": head + sign.join([b"x"] * 300_000) + b"\n",
            "a quote that never closes": head + good + b'"q' + sign + b"a_1\n" + good * 50,
            "a quote that never closes, 2 MB": head + b'"q' + sign + b"a_1\n" + good * 60_000,
            "words behind a quote": head + b'"q"x' + sign + b"a_1\n",
            "an empty question": head + sign + b"a_1\n",
            "an empty answer": head + b"q" + sign + b"\n",
            "blanks for a question": head + " \u3000".encode() + sign + b"a_1\n",
            "a broken answer": head + b"q" + sign + b"a_1||a_2\n",
            "NUL in a question": head + b"q\x00" + sign + b"a_1\n",
            "NUL in the heading": b"que\x00stion" + sign + b"answer\n" + good,
            "a question of 10,000 characters": head + b"q" * 10_000 + sign + b"a_1\n",
            "a field of 200,000 characters": head + b"q" * 200_000 + sign + b"a_1\n",
            "a heading of 2 MB": b"h" * (2 * _MEGABYTE) + sign + b"answer\n" + good,
            "old Mac's line ends inside": head + b"q" + sign + b"a_1" + sign + b"x\rq" + sign + b"a_1\n",
            "JSON": b'[{"instruction": "a", "output": "b_1"}]',
            "other separators": head.replace(sign, b"#") + good.replace(sign, b"#"),
            "1,000 wrong rows": head + (b"q" + sign + b"a||b\n") * 1_000,
            "many codes and one wrong row": head
            + b"".join(b"q%d" % n + sign + b"%s_%d\n" % (b"x" * 150, n) for n in range(3_000))
            + b"q"
            + sign
            + b"|\n",
        }.items():
            yield case(name, data, kind)
        yield case("one line of 50 MB", partial(_long_table, head, sign), kind)


def _long_table(head: bytes, sign: bytes) -> bytes:
    return head + b"q" * _LONG_LINE_BYTES + sign + b"a_1\n"


def _empty() -> Iterator[MalformedRequest]:
    contents = {
        "nothing": b"",
        "a blank": b" ",
        "line ends": b"\n" * 1_000,
        "1 MB of blanks": b" " * _MEGABYTE,
        "tabs": b"\t\t\n\t\n",
        "a mark": b"\xef\xbb\xbf",
        "a mark of UTF-16": b"\xff\xfe",
        "NULs": b"\x00" * 1_000,
        "an ideographic space": "\u3000\n".encode(),
    }
    for name, data in contents.items():
        for filename in (*dict.fromkeys(_NAMES.values()), "upload", "a.txt"):
            yield upload("empty files", f"{name} as {filename}", data, filename=filename)


def _noise() -> Iterator[MalformedRequest]:
    for kind, filename in _NAMES.items():
        dice = dice_of("noise", kind)
        for number in range(30):
            data = dice.randbytes(dice.randint(1, 2_000))
            yield upload("random bytes", f"{kind}: random bytes {number}", data, filename=filename)
