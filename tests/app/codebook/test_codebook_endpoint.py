import io
import threading
from pathlib import Path
from typing import Any

import httpx2
import openpyxl
import pytest
from sqlalchemy import Engine

from app.codebook import repository, service
from app.codebook.entries import Entry
from app.db.unit_of_work import read_only, unit_of_work
from app.jobs import repository as job_rows
from tests.app.codebook.coded import insert_adapter_with_codes
from tests.fixtures.api import BASE, QUESTION, Api

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
BOOK = [
    {"code": "取消方式_12", "category": "退订", "text": "发送短信 QX 到 10001。"},
    {"code": "9.9", "text": "每月 9.9 元"},
    {"code": "开通方式_98"},
]


def put(api: Api, entries: list[dict[str, Any]] = BOOK) -> httpx2.Response:
    return api.client.put("/v1/codebook", json={"entries": entries})


def put_bytes(api: Api, body: bytes, content_type: str) -> httpx2.Response:
    return api.client.put("/v1/codebook", content=body, headers={"content-type": content_type})


def test_the_book_is_replaced_as_a_whole(api: Api) -> None:
    assert api.client.get("/v1/codebook").json() == {"object": "codebook", "version": 0, "updated_at": None, "entries": []}
    first = put(api).json()
    assert (first["version"], first["entry_count"], first["added"], first["removed"]) == (1, 3, 3, 0)
    second = put(api, [BOOK[0], {"code": "9.9", "text": "九块九"}, {"code": "新_1"}]).json()
    assert (second["version"], second["added"], second["changed"], second["removed"]) == (2, 1, 1, 1)
    got = api.client.get("/v1/codebook").json()
    assert got["version"] == 2
    assert got["entries"] == [
        {"code": "9.9", "category": None, "text": "九块九"},
        BOOK[0],
        {"code": "新_1", "category": None, "text": None},
    ]


def test_the_same_book_again_changes_nothing(api: Api) -> None:
    before = put(api).json()
    after = put(api).json()
    assert (after["version"], after["updated_at"], after["added"]) == (before["version"], before["updated_at"], 0)


def test_a_csv_comes_back_as_it_was_put(api: Api) -> None:
    put(api, [*BOOK, {"code": "=1+1", "text": "-2"}])
    csv = api.client.get("/v1/codebook", params={"format": "csv"})
    assert csv.headers["content-type"].startswith("text/csv")
    assert csv.content.startswith(b"\xef\xbb\xbfcode,category,text\r\n")
    assert "'=1+1,,'-2" in csv.text
    again = put_bytes(api, csv.content, "text/csv; charset=utf-8").json()
    assert (again["entry_count"], again["changed"], again["added"], again["removed"]) == (4, 0, 0, 0)


def test_a_workbook_is_taken(api: Api) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(["代码", "文本"])
    book.active.append(["开通方式_98", "你好"])
    target = io.BytesIO()
    book.save(target)
    response = put_bytes(api, target.getvalue(), XLSX)
    assert response.status_code == 200, response.text
    assert api.client.get("/v1/codebook").json()["entries"] == [{"code": "开通方式_98", "category": None, "text": "你好"}]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "param"),
    [
        (b"code,text\n,x\n", "text/csv", 400, "code"),
        (b'{"entries":[{"code":"a|b"}]}', "application/json", 400, "code"),
        (b'{"entries":[{"code":"a"},{"code":5}]}', "application/json", 422, "entries.1.code"),
        (b'{"entries":[{"code":"a","reply":"x"}]}', "application/json", 422, "entries.0.reply"),
        (b'{"entries":' + b"[" * 100_000, "application/json", 422, None),
        (b"{}", "application/json", 422, "entries"),
        (b"nonsense", XLSX, 400, None),
        (b"code\na_1\n", "text/plain", 400, "content-type"),
    ],
)
def test_a_wrong_book_names_the_place_and_changes_nothing(
    shared_api: Api, body: bytes, content_type: str, status: int, param: str | None
) -> None:
    version = put(shared_api).json()["version"]
    response = put_bytes(shared_api, body, content_type)
    assert response.status_code == status, response.text
    if param is not None:
        assert response.json()["error"]["param"] == param
    got = shared_api.client.get("/v1/codebook").json()
    assert (got["version"], len(got["entries"])) == (version, 3)


def test_a_book_over_the_limits_of_other_bodies_is_taken_and_one_over_its_own_is_not(shared_api: Api) -> None:
    rows = "".join(f"代码_{number},{'长' * 100}\n" for number in range(10_000))
    assert put_bytes(shared_api, f"code,text\n{rows}".encode(), "text/csv").json()["entry_count"] == 10_000
    assert put_bytes(shared_api, b"x" * (16 * 1024 * 1024 + 1), "text/csv").status_code == 413


def test_answers_show_the_text_and_the_category_of_the_book_at_once(api: Api) -> None:
    def codes() -> list[dict[str, Any]]:
        body = {"question": QUESTION, "model": BASE}
        return [
            {key: code[key] for key in ("code", "category", "text")}
            for code in api.client.post("/answer", json=body).json()["codes"]
        ]

    assert codes() == [
        {"code": "取消方式_12", "category": "取消方式", "text": None},
        {"code": "9.9", "category": "value", "text": None},
    ]
    put(api)
    assert codes() == [
        {"code": "取消方式_12", "category": "退订", "text": "发送短信 QX 到 10001。"},
        {"code": "9.9", "category": "value", "text": "每月 9.9 元"},
    ]


def test_the_report_names_codes_without_text_and_texts_without_code(api: Api, tmp_path: Path) -> None:
    put(api)
    model = insert_adapter_with_codes(api, tmp_path / "adapter", ("取消方式_12", "开通方式_98", "11.9"))
    report = api.client.get("/v1/codebook/report", params={"model": model})
    assert report.status_code == 200, report.text
    body = report.json()
    assert (body["adapter"], body["code_count"]) == (model, 3)
    assert body["codes_without_text"] == ["开通方式_98"]
    assert body["values_without_text"] == ["11.9"]
    assert body["texts_without_code"] == ["9.9"]


def test_the_report_is_cut_but_its_counts_are_not(api: Api, tmp_path: Path) -> None:
    model = insert_adapter_with_codes(api, tmp_path / "adapter", ("a_1", "a_2", "a_3"))
    body = api.client.get("/v1/codebook/report", params={"model": model, "limit": 2}).json()
    assert (body["codes_without_text"], body["codes_without_text_count"]) == (["a_1", "a_2"], 3)


def test_a_report_needs_an_adapter(api: Api) -> None:
    assert api.client.get("/v1/codebook/report", params={"model": BASE}).status_code == 400
    assert api.client.get("/v1/codebook/report", params={"model": "telecom:1"}).status_code == 404


def test_a_job_takes_the_codes_of_the_book_as_they_are_now(api: Api) -> None:
    put(api)
    job = api.post_job(api.file_id(), codebook_codes=True).json()
    assert job["codebook_version"] == 1
    put(api, [])
    with read_only(api.engine) as session:
        assert job_rows.extra_codes(session, job["id"]) == ["9.9", "取消方式_12", "开通方式_98"]
    assert api.client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()["codebook_version"] == 1


def test_a_job_that_does_not_ask_takes_none(api: Api) -> None:
    put(api)
    job = api.post_job(api.file_id()).json()
    assert job["codebook_version"] is None
    with read_only(api.engine) as session:
        assert job_rows.extra_codes(session, job["id"]) == []


def test_a_job_that_asks_for_an_empty_book_is_refused(api: Api) -> None:
    response = api.post_job(api.file_id(), codebook_codes=True)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "codebook_codes")


def test_two_replacements_at_once_come_one_after_the_other(engine: Engine) -> None:
    books = [[Entry(f"a_{number}", None, str(writer)) for number in range(300)] for writer in range(4)]
    failed: list[BaseException] = []

    def write(book: list[Entry]) -> None:
        try:
            with unit_of_work(engine) as session:
                service.replace(session, book)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(book,)) for book in books]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with read_only(engine) as session:
        assert repository.get_book(session).version == 4
        assert len({entry.text for entry in repository.read_entries(session)}) == 1
