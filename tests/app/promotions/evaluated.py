"""Finished evaluations put into a database without a worker."""

from collections.abc import Sequence

from app.db.unit_of_work import unit_of_work
from app.evaluations import service
from app.ml.evaluated_rows import EvaluatedRow
from tests.fixtures.api import Api
from tests.fixtures.queue import must_claim


def evaluate(
    api: Api, adapter_id: str, file_id: str, right: Sequence[bool], *, first_row: int = 1, decide_by: str = "answer"
) -> str:
    """Lets an adapter answer a row of the file rightly or not, row by row; returns the evaluation's id."""
    body = {"model": adapter_id, "file": file_id, "decide_by": decide_by}
    evaluation_id = str(api.client.post("/v1/evaluations", json=body).json()["id"])
    lease = must_claim(api.engine)
    rows = [
        EvaluatedRow(
            row=row,
            question="问",
            expected=("取消方式_1", "9.9"),
            given=("取消方式_1", "9.9" if is_right else "8.8"),
            code_confidences=(0.75, 0.75),
            confidence=0.75,
            in_vocabulary=True,
            fallback=None,
            latency_ms=4.5,
            passes=2,
        )
        for row, is_right in enumerate(right, start=first_row)
    ]
    with unit_of_work(api.engine) as session:
        assert service.keep_rows(session, lease, rows)
        assert service.finish(session, lease, metrics={})
    return evaluation_id
