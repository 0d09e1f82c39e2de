import io
import json
import re
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.app.codebook.coded import insert_adapter_with_codes
from tests.app.console.visitor import Visitor
from tests.fixtures.api import Api

PAGE = "/console/codebook"
BOOK = [
    {"code": "取消方式_12", "category": "退订", "text": "发送短信 QX 到 10001。"},
    {"code": "9.9", "text": "每月 9.9 元"},
    {"code": "开通方式_98"},
]


def put(api: Api, entries: list[dict[str, Any]] = BOOK) -> None:
    assert api.client.put("/v1/codebook", json={"entries": entries}).status_code == 200


def entries_of(api: Api) -> list[tuple[str, str | None]]:
    return [(one["code"], one["text"]) for one in api.client.get("/v1/codebook").json()["entries"]]


def workbook(*rows: list[str]) -> bytes:
    book, target = openpyxl.Workbook(), io.BytesIO()
    assert book.active is not None
    for row in rows:
        book.active.append(row)
    book.save(target)
    return target.getvalue()


def shown_codes(html: str) -> list[str]:
    return re.findall(r'<th scope="row" class="code">([^<]*)</th>', html)


def test_the_book_is_shown_with_its_codes_texts_and_counts(api: Api) -> None:
    put(api)

    html = Visitor(api).page(PAGE)

    assert sorted(shown_codes(html)) == ["9.9", "取消方式_12", "开通方式_98"]
    assert "退订" in html and "每月 9.9 元" in html
    assert re.findall(r"<dd>(\d+)", html)[:3] == ["3", "2", "1"]


def test_the_book_is_turned_page_by_page_and_looked_through(api: Api) -> None:
    put(api, [{"code": f"资费_{number:03}", "text": f"第 {number} 档 100%"} for number in range(120)])
    visitor = Visitor(api)

    first = visitor.page(PAGE)
    rest = [visitor.page(PAGE, after=code) for code in ("资费_049", "资费_099")]
    found = visitor.page(PAGE, wanted="第 7 档 100%")
    nothing = visitor.page(PAGE, wanted="_%")

    assert [code for html in (first, *rest) for code in shown_codes(html)] == [f"资费_{number:03}" for number in range(120)]
    assert "after=%E8%B5%84%E8%B4%B9_049" in first
    assert shown_codes(found) == ["资费_007"]
    assert "Nothing in the book has this" in nothing


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("book.csv", "代码,文本\n开通方式_98,你好\n".encode("gbk")),
        ("BOOK.XLSX", workbook(["code", "text"], ["开通方式_98", "你好"])),
        ("book.json", json.dumps({"entries": [{"code": "开通方式_98", "text": "你好"}]}).encode()),
    ],
)
def test_an_uploaded_book_replaces_the_one_before_and_says_what_changed(api: Api, name: str, content: bytes) -> None:
    put(api)
    visitor = Visitor(api)

    response = visitor.send(PAGE, files={"file": (name, content)})

    assert response.status_code == 303, response.text
    assert entries_of(api) == [("开通方式_98", "你好")]
    assert "0 added, 1 changed, 2 removed." in visitor.page(response.headers["location"])
    assert api.client.get("/v1/audit").json()["data"][0]["act"] == "codebook.replaced"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("book.csv", b"code,text\nok_1,x\n,y\n", r'<td class="number">3</td><td>code</td><td>is empty</td>'),
        ("book.csv", b"code,reply\na_1,x\n", r"has a column &#39;reply&#39;"),
        ("book.json", b'{"entries":[{"code":"a","reply":"x"}]}', r"entries\.0\.reply"),
        ("book.json", b'{"entries":[{"code":"a","code":"b"}]}', r"twice in one object"),
        ("book.json", b"{", r"Invalid JSON"),
        ("book.xlsx", b"nonsense", r"The workbook cannot be read"),
        ("book.txt", b"code\na_1\n", r"must end with \.json, \.csv or \.xlsx"),
    ],
)
def test_a_wrong_book_is_refused_at_the_form_and_the_old_one_stays(api: Api, name: str, content: bytes, said: str) -> None:
    put(api)

    response = Visitor(api).send(PAGE, files={"file": (name, content)})

    assert response.status_code == 400
    assert re.search(said, response.text)
    assert len(entries_of(api)) == 3


def test_a_book_over_the_limit_of_other_bodies_is_taken_and_one_over_its_own_is_not(shared_api: Api) -> None:
    rows = "".join(f"代码_{number},{'长' * 100}\n" for number in range(10_000))
    visitor = Visitor(shared_api)

    taken = visitor.send(PAGE, files={"file": ("book.csv", f"code,text\n{rows}".encode())})
    refused = visitor.send(PAGE, files={"file": ("book.csv", b"x" * (17 * 1024 * 1024))})

    assert (taken.status_code, refused.status_code) == (303, 413)


def test_the_report_lists_codes_without_text_and_texts_without_code(api: Api, tmp_path: Path) -> None:
    put(api, [*BOOK, {"code": "多余_1", "text": "没人用"}])
    model = insert_adapter_with_codes(api, tmp_path / "adapter", ("取消方式_12", "开通方式_98", "11.9"))

    html = Visitor(api).page(f"{PAGE}/report", model=model)

    lists = dict(
        re.findall(r'aria-labelledby="(missing|strays|values)" tabindex="0"><span class="codes">(.*?)</span>', html, re.S)
    )
    assert {name: re.findall(r"<code>([^<]+)</code>", codes) for name, codes in lists.items()} == {
        "missing": ["开通方式_98"],
        "strays": ["9.9", "多余_1"],
        "values": ["11.9"],
    }


def test_the_report_begins_with_the_first_model_there_is_and_says_where_there_is_none(api: Api, tmp_path: Path) -> None:
    visitor = Visitor(api)
    assert "no trained model" in visitor.page(f"{PAGE}/report")

    model = insert_adapter_with_codes(api, tmp_path / "adapter", ("开通方式_98",))

    assert re.search(rf'<option value="{model}" selected>', visitor.page(f"{PAGE}/report"))


def test_the_report_of_a_model_that_is_not_there_says_so_beside_its_form(api: Api, tmp_path: Path) -> None:
    insert_adapter_with_codes(api, tmp_path / "adapter", ("开通方式_98",))

    response = Visitor(api).get(f"{PAGE}/report", model="nobody:1")

    assert response.status_code == 404
    assert 'role="alert"' in response.text and 'name="model"' in response.text


def test_markup_in_the_book_is_shown_as_text(api: Api) -> None:
    put(api, [{"code": "<script>alert(1)</script>", "text": "<b>"}])

    html = Visitor(api).page(PAGE)

    assert "<script>alert(1)</script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
