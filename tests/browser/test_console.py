"""The main job in a browser, from a file to an answer and back, then every page at two widths in both themes and languages."""

import json
from pathlib import Path

import pytest

from tests.browser.conftest import DESKTOP, PHONE, Browser

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "<script>document.title = 'taken over'</script>"
ROWS = [
    ("流量月包怎么取消", "取消方式_1"),
    ("彩铃怎么开通", "开通方式_2|9.9"),
    (f"宽带有什么业务{SCRIPT}", "业务简介_11"),
    ("月费多少", "11.9"),
]


def write_rows(folder: Path, name: str, count: int) -> Path:
    """Writes a small dataset."""
    rows = [
        {"instruction": f"{question}{number}", "input": "", "output": code} for number in range(count) for question, code in ROWS
    ]
    path = folder / name
    path.write_text(json.dumps(rows, ensure_ascii=False))
    return path


def upload(browser: Browser, path: Path) -> None:
    browser.go("/console/datasets?lang=en")
    browser.find("input[type=file]").send_keys(str(path))
    browser.press("form[enctype] button.primary")


def train(browser: Browser, suffix: str, epochs: int, *, learning_rate: str = "0.01") -> str:
    """Starts a tiny job from the form and returns its id."""
    browser.go("/console/jobs/new?lang=en")
    browser.choose("training_file", "rows.json")
    browser.fill("suffix", suffix)
    browser.find("input[value=quick]").click()
    browser.find("details summary").click()
    for name, value in (("num_train_epochs", epochs), ("learning_rate", learning_rate), ("lora_rank", 8), ("seed", 5)):
        browser.fill(name, str(value))
    browser.press("button[value=start]")
    return browser.driver.current_url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(scope="module")
def trained(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Uploads rows and trains `telecom:1` and `telecom:2`; returns the first job's id."""
    upload(browser, write_rows(tmp_path_factory.mktemp("rows"), "rows.json", 20))
    first = train(browser, "telecom", 12)
    browser.wait(lambda browser: browser.all("#state[data-status=succeeded]"), timeout_s=120)
    # So slow that it learns nothing: the worse of the two.
    train(browser, "telecom", 1, learning_rate="0.00000001")
    browser.wait(lambda browser: browser.all("#state[data-status=succeeded]"), timeout_s=120)
    return first


def loss_points(browser: Browser) -> int:
    """Returns how many points the drawn loss curve has."""
    return int(browser.driver.execute_script("return document.querySelector('[data-key=loss] .canvas').data?.[0].x.length ?? 0"))


def test_a_file_is_uploaded_and_its_report_drawn(browser: Browser, tmp_path: Path) -> None:
    path = write_rows(tmp_path, "report.json", 20)
    path.write_text(path.read_text().replace("业务简介_11", "<b>业务</b>_11"))
    upload(browser, path)

    assert "every row passed" in browser.text()
    browser.wait(lambda browser: browser.all("[data-key=codes] .main-svg"))
    ticks = [tick.text.strip() for tick in browser.all("[data-key=codes] .ytick text")]
    assert "<b>业务</b>_11" in ticks and "9.9" in ticks
    assert SCRIPT in browser.text()
    assert browser.driver.title.startswith("report.json")
    assert browser.errors() == []


def test_a_wrong_file_is_refused_with_its_rows(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    path.write_text('[{"instruction": "问", "output": ""}]')
    upload(browser, path)

    assert "is empty" in browser.find("[role=alert]").text


def test_the_loss_curve_of_a_job_moves_and_a_job_is_cancelled(browser: Browser, trained: str) -> None:
    job = train(browser, "moves", 1000)
    browser.wait(lambda browser: loss_points(browser) >= 2)
    before = loss_points(browser)
    browser.wait(lambda browser: loss_points(browser) > before)
    assert browser.find("progress").get_attribute("value") != "0"
    browser.press(f"[action='/console/jobs/{job}/cancel'] button")
    browser.wait(lambda browser: browser.all("#state[data-status=cancelled]"))

    assert browser.site.client.get(f"/v1/fine_tuning/jobs/{job}")["status"] == "cancelled"
    assert browser.errors() == []


def test_a_job_is_paused_and_goes_on(browser: Browser, trained: str) -> None:
    job = train(browser, "pauses", 300)
    browser.wait(lambda browser: browser.all("#state[data-status=running]"))
    browser.press(f"[action='/console/jobs/{job}/pause'] button")
    browser.wait(lambda browser: browser.all("#state[data-status=paused]"))
    browser.press(f"[action='/console/jobs/{job}/resume'] button")
    browser.wait(lambda browser: browser.all("#state[data-status=running]"))
    browser.press(f"[action='/console/jobs/{job}/cancel'] button")
    browser.wait(lambda browser: browser.all("#state[data-status=cancelled]"))


def test_an_adapter_is_promoted_asked_and_rolled_back(browser: Browser, trained: str) -> None:
    for adapter in ("telecom:1", "telecom:2"):
        browser.go(f"/console/models/{adapter}?lang=en")
        browser.fill("alias", "telecom@production")
        browser.press("form[action='/console/aliases'] button.primary")
        assert "Promoted" in browser.text()
    browser.press("#roll-back")
    assert "Rolled back" in browser.text()
    assert browser.site.client.get("/v1/aliases/telecom@production")["model"] == "telecom:1"

    browser.go("/console/ask?lang=en")
    browser.choose("model", "telecom@production")
    browser.find("[name=question]").send_keys("彩铃怎么开通3\n")
    browser.wait(lambda browser: browser.all(".answer code"))
    given = [code.text for code in browser.all(".answer code")]
    answer = browser.site.client.post("/answer", {"question": "彩铃怎么开通3", "model": "telecom@production"})
    assert given == [code["code"] for code in answer["codes"]]
    assert "telecom:1" in browser.text()


def test_a_gate_refuses_what_is_worse_and_shows_by_how_much(browser: Browser, trained: str) -> None:
    client = browser.site.client
    for adapter in ("telecom:1", "telecom:2"):
        browser.go(f"/console/evaluations/new?model={adapter}&lang=en")
        browser.choose("file", "rows.json")
        browser.press("form.card button.primary")
        browser.wait(lambda browser: browser.all(".status.succeeded"), timeout_s=120)
        browser.wait(lambda browser: len(browser.all("figure.plot .main-svg")) >= 3)
        evaluation = client.get("/v1/evaluations")["data"][0]
        assert f"{100 * evaluation['metrics']['exact_match']:.1f}%" in browser.find(".tile.good").text
    better, worse = (one["metrics"]["exact_match"] for one in reversed(client.get("/v1/evaluations")["data"]))
    assert better > worse

    browser.go("/console/models/telecom:1?lang=en")
    browser.fill("alias", "telecom@gated")
    browser.choose("gate", "rows.json")
    browser.press("form[action='/console/aliases'] button.primary")
    browser.go("/console/aliases/telecom@gated?lang=en")
    browser.choose("to", "telecom:2")
    browser.press("form[action='/console/aliases'] button.primary")
    assert "Not promoted" in browser.text()
    assert f"{100 * worse:.1f}%" in browser.text()
    browser.picture("promotion-refused")
    assert client.get("/v1/aliases/telecom@gated")["model"] == "telecom:1"


def test_a_ramp_is_started_and_its_arms_are_compared(browser: Browser, trained: str) -> None:
    browser.go("/console/experiments/new?lang=en")
    browser.fill("name", "How many rows")
    browser.choose("training_file", "rows.json")
    browser.choose("test_file", "rows.json")
    browser.fill("sizes", "0, 8")
    browser.find("details summary").click()
    browser.choose("preset", "quick")
    browser.fill("num_train_epochs", "1")
    browser.fill("max_rows", "8")
    browser.fill("fixed", "lora_rank: 8")
    browser.press("form.vary button.primary")
    assert "Queued" in browser.text()
    browser.wait(lambda browser: browser.all("main > p .status.succeeded"), timeout_s=280)

    browser.wait(lambda browser: browser.all("[data-key=arms] .main-svg"))
    assert "against the baseline" in browser.text().lower()
    assert browser.errors() == []


def test_the_pages_work_without_scripts(browser: Browser, trained: str) -> None:
    browser.set_scripts(on=False)
    try:
        browser.go(f"/console/jobs/{trained}?lang=en")
        assert browser.all("[data-key=loss] svg.drawn polyline")
        browser.go("/console/ask?lang=en")
        browser.fill("question", "月费多少1")
        browser.press("main form button.primary")
        assert browser.all(".answer code")
    finally:
        browser.set_scripts(on=True)


def test_the_keyboard_reaches_the_content_and_the_first_field(browser: Browser, trained: str) -> None:
    browser.go("/console/models?lang=en")
    focus = "return document.activeElement.textContent"
    body = browser.find("body")
    body.send_keys("\ue004")

    assert browser.driver.execute_script(focus) == "Skip to content"
    assert browser.driver.execute_script("return document.activeElement.getBoundingClientRect().left") >= 0


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize(("language", "theme"), [("zh", "light"), ("en", "dark")])
def test_no_page_is_wider_than_its_window_and_no_script_fails(
    browser: Browser, trained: str, width: int, language: str, theme: str
) -> None:
    client = browser.site.client
    dataset = next(file for file in client.get("/v1/files?purpose=fine-tune")["data"] if file["filename"] == "rows.json")
    pages = {
        "overview": "/",
        "datasets": "/console/datasets",
        "dataset": f"/console/datasets/{dataset['id']}",
        "jobs": "/console/jobs",
        "job-new": "/console/jobs/new",
        "job": f"/console/jobs/{trained}",
        "evaluations": "/console/evaluations",
        "experiments": "/console/experiments",
        "experiment-new": "/console/experiments/new",
        "models": "/console/models",
        "adapter": "/console/models/telecom:1",
        "ask": "/console/ask",
        "answers": "/console/answers",
        **{one["id"].partition("-")[0]: f"/console/evaluations/{one['id']}" for one in client.get("/v1/evaluations")["data"][:1]},
        **{one["id"].partition("-")[0]: f"/console/experiments/{one['id']}" for one in client.get("/v1/experiments")["data"][:1]},
    }
    browser.tour(pages, width=width, language=language, theme=theme)
