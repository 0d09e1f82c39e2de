"""Uploads as multipart forms, whole and broken in every way."""

from collections.abc import Iterator, Mapping
from functools import partial

from tests.fixtures.api import alpaca
from tests.malformed.malformed_request import MalformedRequest, dice_of

PATH = "/v1/files"
BOUNDARY = "corpus-7f3a9c"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
_PURPOSE = {"purpose": "fine-tune"}


def part(name: str, content: bytes, *, filename: str | None = None, more_headers: bytes = b"") -> bytes:
    """Returns one part with its boundary before it."""
    shown = "" if filename is None else f'; filename="{filename}"'
    disposition = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"{shown}\r\n'.encode("utf-8", "surrogatepass")
    return disposition + more_headers + b"\r\n" + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def form(content: bytes, *, filename: str = "rows.json", fields: Mapping[str, str] = _PURPOSE) -> bytes:
    """Returns a whole form with a file."""
    return b"".join(part(name, value.encode()) for name, value in fields.items()) + part("file", content, filename=filename) + END


def upload(group: str, name: str, make: "partial[bytes] | bytes", *, filename: str, **fields: str) -> MalformedRequest:
    """Returns the request that uploads a malformed file in a form that is right."""

    def content() -> bytes:
        data = make if isinstance(make, bytes) else make()
        return form(data, filename=filename, fields={**_PURPOSE, **fields})

    return MalformedRequest(group, name, PATH, content, MULTIPART)


def broken_forms() -> Iterator[MalformedRequest]:
    """Yields forms that are broken, incomplete, too much, or of another kind."""

    def case(name: str, body: bytes, content_type: str | None = MULTIPART) -> MalformedRequest:
        return MalformedRequest("broken forms", name, PATH, lambda: body, content_type)

    dice = dice_of("forms")
    good = form(alpaca())
    file = part("file", alpaca(), filename="rows.json")
    purpose = part("purpose", b"fine-tune")
    for place in sorted(dice.sample(range(len(good) - len(END) + 4), 100)):
        yield case(f"breaks off after {place} bytes", good[:place])
    yield case("no closing boundary", purpose + file)
    yield case("no closing boundary, file first", file + purpose)
    yield case("closing boundary cut", good[:-4])
    yield case("begins in the middle", good[5:])
    for content_type in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=another",
        f"multipart/form-data; boundary={'b' * 10_000}",
        'multipart/form-data; boundary="',
        f"multipart/mixed; boundary={BOUNDARY}",
        "application/x-www-form-urlencoded",
        "application/json",
        "text/plain",
        "application/octet-stream",
        "image/png",
        "; boundary=x",
        "multipart/form-data; charset=nonsense",
        None,
    ):
        yield case(f"content type {str(content_type)[:60]}", good, content_type)
    yield case("empty", b"")
    yield case("only an end", END)
    yield case("only blanks", b" \r\n" * 50)
    yield case("nested multipart", purpose + part("file", good, filename="a.json") + END)
    yield case("no purpose", file + END)
    yield case("no file", purpose + END)
    yield case("file as text", purpose + part("file", alpaca()) + END)
    yield case("purpose as a file", part("purpose", b"fine-tune", filename="purpose") + file + END)
    yield case("two files", purpose + file + file + END)
    yield case("two purposes", purpose + purpose + file + END)
    yield case("two purposes that differ", purpose + part("purpose", b"evals") + file + END)
    for count in (17, 100, 1_000, 5_000):
        yield case(f"{count} fields", b"".join(part(f"f{n}", b"x") for n in range(count)) + purpose + file + END)
        yield case(f"{count} files", purpose + file * count + END)
    for size in (5_000, 100_000, 2_000_000):
        yield case(f"a part's header of {size}", purpose + part("file", b"[]", filename="a" * size) + END)
        header = b"x-long: " + b"a" * size + b"\r\n"
        yield case(f"another header of {size}", purpose + part("file", b"[]", filename="a", more_headers=header) + END)
        yield case(f"a purpose of {size}", part("purpose", b"p" * size) + file + END)
        yield case(f"columns of {size}", purpose + part("columns", b"[" * size) + file + END)
    many = b"".join(b"x-%d: a\r\n" % n for n in range(10_000))
    yield case("10,000 headers in a part", purpose + part("file", b"[]", filename="a", more_headers=many) + END)
    yield case("a header without a colon", purpose + part("file", b"[]", filename="a", more_headers=b"nonsense\r\n") + END)
    yield case("a header without a name", purpose + part("file", b"[]", filename="a", more_headers=b": a\r\n") + END)
    yield case("no disposition", f"--{BOUNDARY}\r\n\r\nx\r\n".encode() + purpose + file + END)
    yield case(
        "a disposition without a name", f"--{BOUNDARY}\r\ncontent-disposition: form-data\r\n\r\nx\r\n".encode() + file + END
    )
    yield case("line ends of Unix", good.replace(b"\r\n", b"\n"))
    yield case("NUL in a name", part("pur\0pose", b"fine-tune") + file + END)
    for name, value in (
        ("purpose", "assistants"),
        ("purpose", ""),
        ("purpose", "fine-tune\0"),
        ("purpose", "fine-tune" * 100),
        ("lerning_rate", "1"),
        ("colums", "{}"),
        ("expires_after[anchor]", "created_at"),
        ("columns", "{"),
        ("columns", "[]"),
        ("columns", "null"),
        ("columns", "NaN"),
        ("columns", '{"question": "a"}'),
        ("columns", '{"question": 1, "answer": 2}'),
        ("columns", '{"question": "a", "answer": "b", "unknown": "c"}'),
        ("columns", '{"question": "a", "question": "b", "answer": "c"}'),
        ("columns", '{"question": "a\\u0000", "answer": "c"}'),
        ("columns", '{"question": "\\ud800", "answer": "c"}'),
        ("columns", '{"question": ' + "1" * 5_000 + "}"),
        ("columns", '{"a":' * 3_000 + "1" + "}" * 3_000),
        ("dataset_info", "{"),
        ("dataset_info", "[]"),
        ("dataset_info", '{"a": 1}'),
        ("dataset_info", '{"rows": {"columns": {"prompt": 1}}}'),
        ("dataset_info", "[" * 100_000),
        ("dataset_info", '{"a": NaN}'),
        ("encoding", "latin-1"),
        ("encoding", "utf-7"),
        ("encoding", "rot13"),
        ("encoding", "../../etc/passwd"),
        ("encoding", "\0"),
        ("sheet", "s" * 101),
        ("compare_with", "nothing"),
        ("compare_with", "../../etc/passwd"),
        ("compare_with", "\0"),
        ("rare_code_rows", "0"),
        ("rare_code_rows", "-1"),
        ("rare_code_rows", "NaN"),
        ("rare_code_rows", "1e3"),
        ("rare_code_rows", "9" * 5_000),
        ("base_model", "nobody"),
        ("base_model", "../../etc"),
        ("base_model", "\0"),
    ):
        fields = {**_PURPOSE, name: value}
        yield case(f"{name} = {value[:40]!r}", form(alpaca(), fields=fields))
