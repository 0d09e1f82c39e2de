"""Secrets and the texts of questions are in no log line and in no trace of a fault."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from tests.app.access.logged_api import QUESTION
from tests.fixtures.api import Api


def test_neither_keys_nor_questions_are_logged_whatever_happens(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.app.access.logged_api", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    must_not = json.loads(done.stdout)
    assert {"unhandled_error", "access_refused", "admin_act"} <= {
        json.loads(line)["event"] for line in done.stderr.splitlines() if line.startswith("{")
    }
    assert "Traceback" in done.stderr
    assert [kept for kept in must_not if kept in done.stderr] == []


def test_an_error_of_the_database_does_not_quote_what_was_written(keyed_api: Api) -> None:
    with pytest.raises(SQLAlchemyError) as caught, keyed_api.engine.begin() as connection:
        connection.execute(text("INSERT INTO nothing VALUES (:question)"), {"question": QUESTION})

    assert QUESTION not in str(caught.value)
