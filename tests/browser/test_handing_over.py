"""What leaves the product or lets somebody in, in a browser: exports, the code book, API keys."""

from pathlib import Path

import pytest

from tests.browser.conftest import DESKTOP, PHONE, Browser
from tests.browser.test_console import train, upload, write_rows

pytestmark = pytest.mark.timeout(400)

BOOK = "代码,类别,文本\n取消方式_1,退订,发送短信 QX 到 10001 即可取消。\n9.9,,每月 9.9 元\n多余_7,,没有模型用它\n"


@pytest.fixture(scope="module")
def model(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Trains a tiny adapter and returns its name."""
    upload(browser, write_rows(tmp_path_factory.mktemp("rows"), "rows.json", 10))
    train(browser, "carried", 1)
    browser.wait(lambda browser: browser.all("#state[data-status=succeeded]"), timeout_s=120)
    return "carried:1"


def upload_book(browser: Browser, folder: Path, content: str, *, language: str = "en") -> None:
    path = folder / "book.csv"
    path.write_text(content)
    browser.go(f"/console/codebook?lang={language}")
    browser.find("input[type=file]").send_keys(str(path))
    browser.press("form[enctype] button.primary")


def test_an_export_is_started_on_the_models_page_written_and_deleted(browser: Browser, model: str) -> None:
    browser.go(f"/console/models/{model}?lang=en")
    browser.find("input[name=format][value=merged]").click()
    browser.press("form[action='/console/exports'] button")
    assert "Queued" in browser.text()
    browser.wait(lambda browser: browser.all("td .status.succeeded"), timeout_s=120)
    (export,) = browser.site.client.get("/v1/exports")["data"]
    assert browser.find("a[download]").get_attribute("href").endswith(f"/v1/exports/{export['id']}/content")
    browser.picture("export-written")

    browser.find("td .confirm summary").click()
    browser.press("td .confirm button")

    assert browser.site.client.get("/v1/exports")["data"] == []
    assert browser.errors() == []


def test_a_book_is_uploaded_compared_with_a_model_and_a_wrong_one_refused(browser: Browser, model: str, tmp_path: Path) -> None:
    upload_book(browser, tmp_path, BOOK)
    assert "3 added, 0 changed, 0 removed" in browser.text()

    browser.choose("model", model)
    browser.press("form[action='/console/codebook/report'] button")
    assert "业务简介_11" in browser.find("[role=region][aria-labelledby=missing]").text
    assert "多余_7" in browser.find("[role=region][aria-labelledby=strays]").text

    upload_book(browser, tmp_path, "code,text\n,nothing\n")
    assert "so the book stays as it was" in browser.find("[role=alert]").text
    browser.picture("codebook-refused")
    assert len(browser.site.client.get("/v1/codebook")["entries"]) == 3


def test_a_new_key_is_selected_for_copying_and_never_shown_again(browser: Browser) -> None:
    browser.go("/console/keys?lang=en")
    browser.fill("name", "crm-app")
    browser.press("form[action='/console/keys'] button.primary")
    secret = browser.find("#secret").get_attribute("value") or ""
    selected = "const field = document.activeElement; return field.value.slice(field.selectionStart, field.selectionEnd)"
    assert browser.driver.execute_script(selected) == secret and len(secret) == 46
    for width in (DESKTOP, PHONE):
        browser.look(width=width)
        browser.picture(f"key-created-{width}")
    browser.look()

    browser.go("/console/keys?lang=en")
    assert "crm-app" in browser.text() and secret not in browser.driver.page_source
    browser.site.client.post("/v1/keys", {"name": "li.wei", "scope": "train", "days": 30, "requests_per_minute": 600})
    browser.go("/console/keys?lang=en")
    browser.find("td .confirm summary").click()
    browser.press("td .confirm button")
    assert "li.wei" not in browser.text() and "crm-app" in browser.text()
    assert browser.errors() == []


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize(("language", "theme"), [("zh", "light"), ("en", "dark"), ("zh", "dark"), ("en", "light")])
def test_no_page_is_wider_than_its_window_and_no_script_fails(
    browser: Browser, model: str, tmp_path: Path, width: int, language: str, theme: str
) -> None:
    client = browser.site.client
    upload_book(browser, tmp_path, BOOK)
    if not client.get("/v1/exports")["data"]:
        for format in ("peft", "gguf"):
            client.post("/v1/exports", {"model": model, "format": format})
        browser.go("/console/exports")
        browser.wait(lambda browser: browser.all(".status.succeeded") and browser.all(".status.failed"), timeout_s=120)
    if not any(key["name"] == "wang.fang" for key in client.get("/v1/keys")["data"]):
        wishes = {"scope": "train", "days": 30, "requests_per_minute": 600, "max_concurrent": 8}
        client.post("/v1/keys", {"name": "wang.fang", **wishes})
    pages = {
        "adapter-export": f"/console/models/{model}",
        "exports": "/console/exports",
        "codebook": "/console/codebook",
        "codebook-report": f"/console/codebook/report?model={model}",
        "keys": "/console/keys?ended=true",
        "not-found": "/console/nothing",
    }
    browser.tour(pages, width=width, language=language, theme=theme)


def test_a_refused_book_is_explained_in_chinese_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    browser.look(width=PHONE)
    try:
        upload_book(browser, tmp_path, "code,text\n,nothing\n" + "a|b,x\n" * 3, language="zh")
        browser.picture("codebook-refused-390-zh")
        assert "请按下面的说明改正后重新上传" in browser.find("[role=alert]").text
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= PHONE
    finally:
        browser.look()
