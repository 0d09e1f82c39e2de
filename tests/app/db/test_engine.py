from app.db.engine import make_engine
from tests.fixtures.db import Databases


def parameters(url: str) -> dict[str, str]:
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            assert raw is not None
            found: dict[str, str] = raw.info.get_parameters()
            return found
    finally:
        engine.dispose()


def test_a_database_server_that_is_gone_without_a_word_is_noticed_within_half_a_minute(databases: Databases) -> None:
    with databases.database("postgresql", migrated=False) as url:
        given = parameters(url)
    idle, interval, count = (int(given[f"keepalives_{name}"]) for name in ("idle", "interval", "count"))
    assert idle + interval * count <= 30
    assert int(given["tcp_user_timeout"]) <= 30_000
    assert int(given["connect_timeout"]) <= 10


def test_what_the_url_says_of_a_connection_counts(databases: Databases) -> None:
    with databases.database("postgresql", migrated=False) as url:
        assert parameters(f"{url}&tcp_user_timeout=5000")["tcp_user_timeout"] == "5000"
