import re

import pytest

from tests.app.console.visitor import Visitor
from tests.fixtures.api import Api

PAGES = (
    "/",
    "/console/datasets",
    "/console/jobs",
    "/console/jobs/new",
    "/console/evaluations",
    "/console/evaluations/new",
    "/console/experiments",
    "/console/experiments/new",
    "/console/models",
    "/console/ask",
    "/console/answers",
    "/console/review",
    "/console/exports",
    "/console/codebook",
    "/console/codebook/report",
    "/console/keys",
)


@pytest.mark.parametrize("path", [*PAGES, "/console/nothing"])
def test_a_page_lets_no_script_run_but_its_own_files(shared_api: Api, path: str) -> None:
    response = Visitor(shared_api).get(path)

    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-frame-options"] == "DENY"
    assert re.findall(r"<script(?![^>]*\bsrc=)", response.text) == []
    assert re.findall(r"<[^>]+\son[a-z]+=", response.text) == []


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_page_has_a_title_one_heading_and_a_way_past_the_menu(shared_api: Api, path: str, language: str) -> None:
    html = Visitor(shared_api, language).page(path)

    assert f'<html lang="{"zh-CN" if language == "zh" else "en"}"' in html
    assert re.search(r"<title>\s*\S", html)
    assert html.count("<h1") == 1
    assert '<a class="skip" href="#main">' in html


@pytest.mark.parametrize("path", PAGES)
def test_every_field_has_a_label(shared_api: Api, path: str) -> None:
    html = Visitor(shared_api).page(path)

    labelled = set(re.findall(r'<label for="([^"]+)"', html))
    fields = re.findall(r"<(?:input|select|textarea)\b[^>]*>", html)
    bare = [
        field
        for field in fields
        if not re.search(r'type="(hidden|radio|checkbox)"', field) and re.search(r'id="([^"]+)"', field).group(1) not in labelled  # type: ignore[union-attr]
    ]
    assert bare == []


def test_a_form_without_the_visitors_token_does_nothing(shared_api: Api) -> None:
    visitor = Visitor(shared_api)
    visitor.token()

    response = visitor.send("/console/aliases", token="x" * 43, alias="telecom@production", to="telecom:1")

    assert response.status_code == 400
    assert "out of date" in response.text


def test_a_form_of_another_site_does_nothing(shared_api: Api) -> None:
    token = Visitor(shared_api).token()

    response = shared_api.client.post(
        "/console/aliases",
        data={"form_token": token, "alias": "telecom@production", "to": "telecom:1"},
        headers={"sec-fetch-site": "cross-site"},
    )

    assert response.status_code == 403


def test_the_token_is_a_cookie_that_scripts_cannot_read_and_other_sites_do_not_send(shared_api: Api) -> None:
    shared_api.client.cookies.clear()

    cookie = Visitor(shared_api).get("/console/ask").headers["set-cookie"].lower()

    assert "httponly" in cookie and "samesite=lax" in cookie


def test_an_error_is_a_page_that_says_what_to_do(shared_api: Api) -> None:
    response = Visitor(shared_api).get("/console/jobs/ftjob-nothing")

    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")
    assert "Choose from the list" in response.text


def test_an_error_speaks_the_visitors_language(shared_api: Api) -> None:
    assert "没有找到" in Visitor(shared_api, "zh").get("/console/nothing").text


def test_a_wished_language_and_theme_are_remembered(shared_api: Api) -> None:
    visitor = Visitor(shared_api, "en")
    visitor.page("/", lang="zh", theme="dark")

    html = visitor.page("/console/models")

    assert '<html lang="zh-CN" data-theme="dark">' in html
    shared_api.client.cookies.clear()


def test_plotly_comes_from_this_server_and_may_be_kept(shared_api: Api) -> None:
    address = re.search(r'data-plotly="([^"]+)"', Visitor(shared_api).page("/"))
    assert address

    response = shared_api.client.get(address.group(1))

    assert response.headers["content-type"].startswith("text/javascript")
    assert "immutable" in response.headers["cache-control"]
    assert b"plotly.js" in response.content[:300]


def test_a_static_file_that_is_not_there_is_not_found(shared_api: Api) -> None:
    assert shared_api.client.get("/console/static/x/..%2fpages.py").status_code == 404
    assert shared_api.client.get("/console/static/x/nothing.js").status_code == 404


def test_a_fault_of_ours_is_a_page_without_its_cause(shared_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_api.backend, "_answers", None)

    response = Visitor(shared_api).send("/console/ask", question="怎么", model="tiny-gemma")

    assert response.status_code == 500
    assert "A fault of ours" in response.text
    assert "NoneType" not in response.text
