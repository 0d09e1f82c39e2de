"""A browser before the product as an operator starts it: `dianda up`, every process real, the model tiny."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from app.cli.client import ApiClient
from app.cli.stack import free_port
from tests.fixtures.tiny import TINY, write_tiny_model

SCREENSHOTS = Path(__file__).resolve().parents[2] / "screenshots"
DESKTOP, PHONE = 1280, 390


@dataclass
class Site:
    """The running product: its address, and a client of its HTTP dialect for what the pages must agree with."""

    url: str
    client: ApiClient
    folder: Path


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Runs `dianda up` until the tests are over."""
    folder = tmp_path_factory.mktemp("site")
    write_tiny_model(folder / "data" / "models" / TINY)
    port = free_port()
    environment = {
        **os.environ,
        "DIANDA_DATA_DIR": str(folder / "data"),
        "DIANDA_PORT": str(port),
        "DIANDA_BASE_MODEL": TINY,
        "DIANDA_BASE_MODELS": json.dumps({TINY: "folder:/nowhere"}),
        "DIANDA_THREADS": "1",
    }
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "up"], env=environment, stdout=log, stderr=log, cwd=folder
        )
    try:
        with ApiClient(f"http://127.0.0.1:{port}") as client:
            client.wait_until_ready(timeout_s=90, on_waiting=lambda parts: None)
            yield Site(f"http://127.0.0.1:{port}", client, folder)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


class Browser:
    """A visitor: goes to pages, presses what its name says, and takes pictures."""

    def __init__(self, driver: Chrome, site: Site) -> None:
        self.driver = driver
        self.site = site

    def go(self, path: str) -> None:
        """Opens a page."""
        self.driver.get(self.site.url + path)

    def find(self, selector: str) -> WebElement:
        """Returns the element, once it is there."""
        return WebDriverWait(self.driver, 20).until(lambda driver: driver.find_element(By.CSS_SELECTOR, selector))

    def all(self, selector: str) -> list[WebElement]:
        """Returns the elements that are there now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def fill(self, name: str, text: str) -> None:
        """Writes into the field of a name."""
        field = self.find(f"[name={name}]")
        field.clear()
        field.send_keys(text)

    def choose(self, name: str, part: str) -> None:
        """Chooses the first option of a list whose text has a part."""
        options = Select(self.find(f"select[name={name}]"))
        options.select_by_visible_text(next(one.text for one in options.options if part in one.text))

    def press(self, selector: str) -> None:
        """Presses a button, brought into view, and waits for the page that follows."""
        button = self.find(selector)
        page = self.driver.find_element(By.TAG_NAME, "html")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        WebDriverWait(self.driver, 30).until(lambda driver: _is_gone(page))

    def wait(self, condition: Any, timeout_s: float = 60) -> Any:
        """Waits until a condition of the browser holds, and returns what it gave."""
        return WebDriverWait(self.driver, timeout_s, poll_frequency=0.1, ignored_exceptions=[Exception]).until(
            lambda driver: condition(self)
        )

    def text(self) -> str:
        """Returns what the page shows."""
        return self.find("body").text

    def errors(self) -> list[str]:
        """Returns what the browser complained of since the last call, such as a script that the policy forbids."""
        told = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        # A page of a refused form is no fault of a script.
        return [message for message in told if "the server responded with a status of 4" not in message]

    def look(self, *, width: int = DESKTOP, theme: str = "light") -> None:
        """Takes the width and colours of a device."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def picture(self, name: str) -> Path:
        """Takes a picture of the whole page."""
        SCREENSHOTS.mkdir(exist_ok=True)
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        path = SCREENSHOTS / f"{name}.png"
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def tour(self, pages: Mapping[str, str], *, width: int, language: str, theme: str) -> None:
        """Takes a picture of each page and demands that it fits its window and that no script fails."""
        self.look(width=width, theme=theme)
        try:
            for name, path in pages.items():
                self.go(f"{path}{'&' if '?' in path else '?'}lang={language}")
                if self.all("figure.plot"):
                    self.wait(lambda browser: browser.all("figure.plot .main-svg"))
                    time.sleep(0.3)
                self.picture(f"{name}-{width}-{language}-{theme}")
                assert self.driver.execute_script("return document.documentElement.scrollWidth") <= width, name
            assert self.errors() == []
        finally:
            self.look()

    def set_scripts(self, *, on: bool) -> None:
        """Switches the scripts of pages on or off."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not on})


def _is_gone(element: WebElement) -> bool:
    try:
        element.is_enabled()
    except Exception:
        return True
    return False


@pytest.fixture(scope="session")
def browser(site: Site) -> Iterator[Browser]:
    """Debian's Chromium without a window."""
    options = ChromeOptions()
    options.binary_location = _program("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"intl.accept_languages": "en"})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(_program("chromedriver")))
    try:
        visitor = Browser(driver, site)
        visitor.look()
        yield visitor
    finally:
        driver.quit()


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not installed. Run: make test-browser"
    return found
