"""The API's description as a browser draws it, under the policy that forbids other hosts."""

import pytest

from tests.browser.conftest import Browser

pytestmark = pytest.mark.timeout(120)


def test_the_operations_are_drawn(browser: Browser) -> None:
    browser.go("/docs")
    browser.wait(lambda browser: len(browser.all(".opblock")) > 60)

    assert "/v1/fine_tuning/jobs" in browser.text()
    assert browser.errors() == []
    browser.picture("docs")


def test_the_reference_is_drawn_and_searched(browser: Browser) -> None:
    browser.go("/redoc")
    browser.wait(lambda browser: browser.all("[data-section-id]"))
    browser.find("input[type=text]").send_keys("feedback")

    assert browser.wait(lambda browser: browser.all("[data-role='search:results'] li"))
    # ReDoc would show its maker's logo; the policy keeps the browser from asking that host for it.
    assert [error for error in browser.errors() if "/redoc/logo-mini.svg" not in error] == []
    browser.picture("redoc")
