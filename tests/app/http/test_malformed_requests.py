"""Whatever is sent, the reply is small, in our shape, a 4xx, and never the input again."""

import json
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.api import BASE, QUESTION, Api

MARK = "ECHO-ME-NOT"
POSTS = ["/answer", "/answer/batch", "/v1/chat/completions", "/v1/fine_tuning/jobs", "/v1/evaluations"]


def send(api: Api, body: bytes, path: str = "/answer", method: str = "POST") -> httpx2.Response:
    return api.client.request(method, path, content=body, headers={"content-type": "application/json"})


def is_our_error(response: httpx2.Response) -> bool:
    error = response.json()["error"]
    return set(error) - {"details"} == {"message", "type", "param", "code"} and bool(error["message"])


HOSTILE = {
    "not JSON": b"{",
    "empty": b"",
    "NaN": b'{"question": "a", "threshold": NaN}',
    "Infinity": b'{"question": "a", "threshold": Infinity}',
    "huge float": b'{"question": "a", "threshold": 1e999}',
    "lone surrogate": b'{"question": "\\ud800"}',
    "lone surrogate as a key": b'{"\\ud800": 1, "question": "a"}',
    "NUL": b'{"question": "a\\u0000b"}',
    "NUL in a name": b'{"question": "a", "model": "a\\u0000b"}',
    "not UTF-8": b'{"question": "\xff\xfe"}',
    "deep array": b"[" * 100_000,
    "deep array that closes": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep value": b'{"question": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "digits": b'{"question": "a", "alternatives": ' + b"1" * 5_000 + b"}",
    "digits as a question": b'{"question": ' + b"1" * 5_000 + b"}",
    "wrong type": b'{"question": ["%s"]}' % MARK.encode(),
    "long wrong type": b'{"question": "a", "alternatives": "' + MARK.encode() * 50_000 + b'"}',
    "long unknown field": b'{"question": "a", "' + b"x" * 500_000 + b'": 1}',
    "many unknown fields": json.dumps({"question": "a", **{f"{MARK}-{n}": n for n in range(20_000)}}).encode(),
    "a name twice": b'{"question": "a", "question": "b"}',
    "a name twice, spelled otherwise": b'{"question": "a", "\\u0071uestion": "b"}',
    "UTF-16": '{"question": "a"}'.encode("utf-16"),
    "array": b"[]",
    "text": b'"%s"' % MARK.encode(),
    "null": b"null",
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_gets_a_small_4xx_of_our_shape(shared_api: Api, body: bytes) -> None:
    response = send(shared_api, body)

    assert 400 <= response.status_code < 500, response.text[:300]
    assert is_our_error(response)
    assert len(response.content) < 8_000


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "name", ["deep value", "digits as a question", "not UTF-8", "lone surrogate", "null", "NaN", "a name twice", "UTF-16"]
)
def test_every_post_refuses_hostile_bodies(shared_api: Api, path: str, name: str) -> None:
    response = send(shared_api, HOSTILE[name], path)

    assert 400 <= response.status_code < 500
    assert is_our_error(response)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/answer", {"question": [MARK * 100]}),
        ("/answer", {"question": "a", "threshold": MARK * 100}),
        ("/answer", {"question": "a", "model": {"a": MARK * 100}}),
        ("/v1/fine_tuning/jobs", {"model": BASE, "training_file": [MARK]}),
        ("/v1/fine_tuning/jobs", {"model": BASE, "training_file": "f", "method": {"type": MARK}}),
        ("/v1/chat/completions", {"model": BASE, "messages": [{"role": MARK, "content": "a"}]}),
    ],
)
def test_a_wrong_value_is_never_echoed(shared_api: Api, path: str, body: dict[str, Any]) -> None:
    response = shared_api.client.post(path, json=body)

    assert response.status_code == 422
    assert MARK not in response.text


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/answer", {"question": QUESTION, "treshold": 0.5}, "treshold"),
        ("/answer/batch", {"questions": [QUESTION], "extra": 1}, "extra"),
        ("/v1/fine_tuning/jobs", {"model": BASE, "training_file": "f", "epochs": 3}, "epochs"),
        ("/v1/fine_tuning/jobs", {"model": BASE, "training_file": "f", "method": {"dpo": {}}}, "method.dpo"),
        ("/v1/chat/completions", {"model": BASE, "messages": [], "tools": []}, None),
        ("/v1/evaluations", {"model": BASE, "file": "f", "metric": "f1"}, "metric"),
    ],
)
def test_an_unknown_field_is_refused_by_name(shared_api: Api, path: str, body: dict[str, Any], param: str | None) -> None:
    response = shared_api.client.post(path, json=body)

    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (422, "invalid_request_error", "malformed_request")
    assert param in [problem["param"] for problem in error["details"]["problems"]] or param is None


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_name_that_stands_twice_is_told(shared_api: Api, size: int) -> None:
    response = send(shared_api, b'{"question": "%s", "question": "b"}' % (b"a" * size))

    assert (response.status_code, response.json()["error"]["code"]) == (422, "malformed_request")
    assert "'question' twice" in response.json()["error"]["message"]


def test_every_problem_of_a_body_is_listed(shared_api: Api) -> None:
    response = shared_api.client.post("/answer", json={"question": 5, "alternatives": 99, "x": 1})

    problems = response.json()["error"]["details"]["problems"]
    assert {problem["param"] for problem in problems} == {"question", "alternatives", "x"}


@pytest.mark.parametrize("path", ["/v1/files/%00", "/v1/models/a%00b", "/v1/fine_tuning/jobs/%00", "/v1/aliases/%00"])
def test_a_nul_in_a_path_is_refused(api: Api, path: str) -> None:
    response = api.client.get(path)

    assert response.status_code == 400
    assert is_our_error(response)


@pytest.mark.parametrize("query", ["after=%00", "purpose=%00", "metadata[a]=%00", "metadata[%00]=a"])
@pytest.mark.parametrize("path", ["/v1/files", "/v1/fine_tuning/jobs"])
def test_a_nul_in_a_query_is_refused(api: Api, path: str, query: str) -> None:
    response = api.client.get(f"{path}?{query}")

    assert response.status_code == 400
    assert is_our_error(response)


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
@pytest.mark.parametrize("field", ["suffix", "metadata value", "metadata key"])
def test_text_that_no_database_stores_is_refused(api: Api, field: str, text: str) -> None:
    fields = {"suffix": {"suffix": text}, "metadata value": {"metadata": {"a": text}}, "metadata key": {"metadata": {text: "a"}}}
    body = {"model": BASE, "training_file": api.file_id(), **fields[field]}

    response = send(api, json.dumps(body).encode(), "/v1/fine_tuning/jobs")

    assert response.status_code == 422
    assert is_our_error(response)


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
def test_a_hyperparameter_that_no_database_stores_is_refused(api: Api, text: str) -> None:
    for hyperparameters in ({"template": text}, {text: 1}):
        method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
        body = {"model": BASE, "training_file": api.file_id(), "method": method}

        response = send(api, json.dumps(body).encode(), "/v1/fine_tuning/jobs")

        assert 400 <= response.status_code < 500, response.text
        assert is_our_error(response)


@pytest.mark.parametrize("hyperparameters", [{"x" * 500_000: 1}, {"preset": "x" * 500_000}, {"lora_target": "x" * 500_000}])
def test_a_long_hyperparameter_is_not_echoed_whole(shared_api: Api, hyperparameters: dict[str, Any]) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}

    response = shared_api.client.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": "f", "method": method})

    assert response.status_code == 400
    assert len(response.content) < 8_000


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=1e3", "limit=" + "9" * 5000, "after=" + "a" * 129])
def test_a_wrong_page_is_refused(shared_api: Api, query: str) -> None:
    response = shared_api.client.get(f"/v1/fine_tuning/jobs?{query}")

    assert response.status_code == 422
    assert response.json()["error"]["param"] in ("limit", "after")
    assert len(response.content) < 1_000


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=60)
@given(ANY_JSON)
def test_any_json_at_all_is_answered_or_refused_in_our_shape(shared_api: Api, value: Any) -> None:
    body = json.dumps({"question": QUESTION, "alternatives": value}).encode()

    response = send(shared_api, body)

    assert response.status_code == 200 or (response.status_code == 422 and is_our_error(response))


class TestTheLimitOfBodies:
    def test_a_body_over_the_limit_is_413_of_our_shape(self, shared_api: Api) -> None:
        response = send(shared_api, b'{"question": "' + b"a" * (1 << 20) + b'"}')

        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
        assert is_our_error(response) and "x-request-id" in response.headers

    def test_a_wrong_string_of_ten_megabytes_is_refused_without_a_word_of_it(self, shared_api: Api) -> None:
        response = send(shared_api, b'{"question": 1, "x": "' + MARK.encode() * 1_000_000 + b'"}')

        assert response.status_code == 413
        assert MARK not in response.text

    def test_a_body_that_declares_no_length_is_counted(self, shared_api: Api) -> None:
        def parts() -> Any:
            for _ in range(40):
                yield b"a" * (1 << 16)

        response = shared_api.client.post("/answer", content=parts(), headers={"content-type": "application/json"})

        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")

    @pytest.mark.parametrize("declared", ["9" * 30, "1048577"])
    def test_a_declared_length_over_the_limit_is_refused_before_a_byte_is_read(self, shared_api: Api, declared: str) -> None:
        headers = {"content-type": "application/json", "content-length": declared}

        response = shared_api.client.post("/answer", content=b"{}", headers=headers)

        assert response.status_code == 413

    def test_a_body_of_exactly_the_limit_is_read(self, shared_api: Api) -> None:
        body = b'{"question": "a"}'.ljust(1 << 20)

        assert send(shared_api, body).status_code == 200
