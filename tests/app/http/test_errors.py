import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from app.errors import AppError, Kind, Unavailable
from app.http.context import RequestContext
from app.http.database_errors import install_database_error_handlers
from app.http.errors import STATUS_OF, install_error_handlers
from tests.fixtures.api import Api

SECRET = "postgresql://user:secret@host/db"


@pytest.fixture(scope="module")
def client() -> TestClient:
    """An app of three broken routes behind the product's own handlers."""
    app = FastAPI()
    app.add_middleware(RequestContext)
    install_error_handlers(app)
    install_database_error_handlers(app)

    @app.get("/fault")
    def fault() -> None:
        raise RuntimeError(SECRET)

    @app.get("/database")
    def database() -> None:
        raise OperationalError(SECRET, {}, Exception(SECRET))

    @app.get("/kinds/{kind}")
    def of_kind(kind: Kind) -> None:
        error = type("Refused", (AppError,), {"kind": kind, "code": "some_code"})("Do this.", param="field")
        raise error

    @app.get("/later")
    def later() -> None:
        error = Unavailable("Ask again later.")
        error.retry_after_s = 306.2
        raise error

    return TestClient(app, raise_server_exceptions=False)


def test_an_error_that_knows_when_it_will_be_over_says_so(client: TestClient) -> None:
    assert client.get("/later").headers["retry-after"] == "307"


def test_a_fault_of_ours_is_a_500_without_its_text(client: TestClient) -> None:
    response = client.get("/fault")

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert SECRET not in response.text


def test_a_fault_of_ours_carries_the_request_id_that_its_message_names(client: TestClient) -> None:
    response = client.get("/fault", headers={"x-request-id": "find-me"})

    assert response.headers["x-request-id"] == "find-me"


def test_a_database_that_is_away_is_a_503_without_its_address(client: TestClient) -> None:
    response = client.get("/database")

    assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert SECRET not in response.text


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_error_becomes_its_status(client: TestClient, kind: Kind) -> None:
    response = client.get(f"/kinds/{kind.value}")

    assert response.status_code == STATUS_OF[kind]
    assert response.json()["error"]["message"] == "Do this."
    assert (response.json()["error"]["param"], response.json()["error"]["code"]) == ("field", "some_code")


@pytest.mark.parametrize(("kind", "should_retry"), [(Kind.CONFLICT, "false"), (Kind.NOT_FOUND, None), (Kind.UNAVAILABLE, None)])
def test_only_a_conflict_tells_the_openai_client_not_to_retry(client: TestClient, kind: Kind, should_retry: str | None) -> None:
    assert client.get(f"/kinds/{kind.value}").headers.get("x-should-retry") == should_retry


def test_an_unknown_path_is_a_404_of_our_shape(shared_api: Api) -> None:
    response = shared_api.client.get("/v2/files")

    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (404, "not_found_error", "unknown_path")
    assert "/docs" in error["message"]


def test_a_wrong_method_is_a_405_of_our_shape_that_says_which_are_allowed(shared_api: Api) -> None:
    response = shared_api.client.delete("/answer")

    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_a_usable_request_id_comes_back(shared_api: Api) -> None:
    response = shared_api.client.get("/health/live", headers={"x-request-id": "my-id.1"})

    assert response.headers.get_list("x-request-id") == ["my-id.1"]


@pytest.mark.parametrize("given", ["", "a b", "a" * 65, "a\tb", '"', "<script>"])
def test_an_unusable_request_id_is_replaced(shared_api: Api, given: str) -> None:
    response = shared_api.client.get("/health/live", headers={"x-request-id": given})

    assert len(response.headers["x-request-id"]) == 32


def test_each_request_gets_an_id_of_its_own(shared_api: Api) -> None:
    ids = {shared_api.client.get("/health/live").headers["x-request-id"] for _ in range(5)}

    assert len(ids) == 5


@pytest.mark.parametrize("path", ["/v2/files", "/answer"])
def test_an_error_has_a_request_id_too(shared_api: Api, path: str) -> None:
    assert shared_api.client.get(path).headers["x-request-id"]


def test_the_openapi_document_builds_and_describes_every_route(shared_api: Api) -> None:
    document = shared_api.client.get("/openapi.json").json()

    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) > 25
    assert all(operation.get("description") for operation in operations)


def test_the_openapi_document_shows_our_error_and_not_fastapis(shared_api: Api) -> None:
    document = shared_api.client.get("/openapi.json").json()

    operation = document["paths"]["/answer"]["post"]
    assert operation["responses"]["422"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
