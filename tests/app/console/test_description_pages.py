"""The API's description for reading: a host without the internet, and a browser that obeys the policy, show all of it."""

import re

import httpx2
import pytest

from tests.fixtures.api import Api, serving

PAGES = ("/docs", "/redoc")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_names_no_other_host_and_all_that_it_names_is_served(shared_api: Api, path: str) -> None:
    with serving(shared_api.app) as url, httpx2.Client(base_url=url) as client:
        page = client.get(path)
        named = re.findall(r'(?:src|href|spec-url)="([^"]*)"', page.text)
        found = {name: client.get(name) for name in named}

    assert page.status_code == 200
    assert re.findall(r"\w*:?//[\w.-]+", page.text) == []
    assert "/openapi.json" in named and any(name.endswith(".js") for name in named)
    assert {name: response.status_code for name, response in found.items()} == dict.fromkeys(named, 200)
    kinds = {name.rpartition(".")[2]: response.headers["content-type"] for name, response in found.items()}
    assert "javascript" in kinds["js"] and "css" in kinds.get("css", "text/css")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_ask_nobody_else_for_anything(shared_api: Api, path: str) -> None:
    policy = dict(
        part.strip().split(" ", 1) for part in shared_api.client.get(path).headers["content-security-policy"].split(";")
    )

    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
    allowed = {source for sources in policy.values() for source in sources.split()}
    assert allowed == {"'none'", "'self'", "'unsafe-inline'", "data:", "blob:"}


def test_the_search_of_the_reference_may_run_and_no_other_page_may_make_workers(shared_api: Api) -> None:
    policies = {path: shared_api.client.get(path).headers["content-security-policy"] for path in (*PAGES, "/console/ask")}

    assert [path for path, policy in policies.items() if "worker-src blob:" in policy] == ["/redoc"]


def test_the_operations_are_drawn_by_a_script_of_our_own(shared_api: Api) -> None:
    page = shared_api.client.get("/docs").text

    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    (name,) = re.findall(r'src="([^"]*operations\.js)"', page)
    script = shared_api.client.get(name).text
    assert 'url: "/openapi.json"' in script and "validatorUrl: null" in script
