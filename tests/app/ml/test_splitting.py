import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.ml.formats.reading import read_examples
from app.ml.splitting import KIND_MARK, SplitPart, SplitRow, labels_of_codes, part_sizes, split_rows

DEMO = Path(__file__).parents[3] / "samples" / "telecom_demo.json"
TREE = (
    SplitPart(name="train", size=60),
    SplitPart(name="few", size=20, within="train"),
    SplitPart(name="fewest", size=7, within="few"),
    SplitPart(name="test", size=30),
)


def demo_rows() -> list[SplitRow]:
    return [SplitRow(example.question, labels_of_codes(example.codes)) for example in read_examples(DEMO)]


def shares(rows: list[SplitRow], indices: list[int]) -> dict[str, float]:
    counts = Counter(label for index in indices for label in rows[index].labels if not label.startswith(KIND_MARK))
    return {label: 100 * count / len(indices) for label, count in counts.items()}


def deviation(rows: list[SplitRow], indices: list[int], *, above_percent: float = 1.0) -> float:
    before, after = shares(rows, list(range(len(rows)))), shares(rows, indices)
    return max(abs(after.get(label, 0.0) - share) for label, share in before.items() if share > above_percent)


some_rows = st.lists(
    st.tuples(
        st.integers(0, 40), st.lists(st.sampled_from(["a_1", "b_2", "b_3", "c_4", "9.9"]), min_size=1, max_size=3, unique=True)
    ),
    min_size=12,
    max_size=120,
).map(lambda pairs: [SplitRow(group, labels_of_codes(codes)) for group, codes in pairs])


@given(rows=some_rows, seed=st.integers(0, 5), data=st.data())
def test_parts_share_no_row_and_no_question_and_a_nested_part_lies_in_its_parent(
    rows: list[SplitRow], seed: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(2, len(rows) - 1))
    inner = data.draw(st.integers(1, first))
    second = data.draw(st.integers(1, len(rows) - first))
    parts = [SplitPart(name="a", size=first), SplitPart(name="a1", size=inner, within="a"), SplitPart(name="b", size=second)]
    try:
        split = split_rows(rows, parts, seed=seed)
    except InvalidInput as error:
        assert "stays empty" in error.message
        return
    assert set(split["a1"]) <= set(split["a"])
    assert not {rows[index].group for index in split["a"]} & {rows[index].group for index in split["b"]}
    for one in split.values():
        assert one == sorted(set(one)) and all(0 <= index < len(rows) for index in one)
        groups = {rows[index].group for index in one}
        assert len(one) == sum(row.group in groups for row in rows)


@given(size=st.integers(1, 99), seed=st.integers(0, 3))
def test_sizes_are_exact_where_no_question_repeats(size: int, seed: int) -> None:
    rows = [SplitRow(number, (f"category {number % 7}",)) for number in range(100)]
    split = split_rows(rows, [SplitPart(name="a", size=size), SplitPart(name="b", size=100 - size)], seed=seed)
    assert (len(split["a"]), len(split["b"])) == (size, 100 - size)


def test_single_rows_fill_what_repeated_questions_leave() -> None:
    rows = [SplitRow(number // 9, ("x",)) for number in range(81)] + [SplitRow(-number, ("x",)) for number in range(1, 20)]
    split = split_rows(rows, [SplitPart(name="a", size=50), SplitPart(name="b", size=50)], seed=0)
    assert (len(split["a"]), len(split["b"])) == (50, 50)


def test_the_demo_file_splits_exactly_and_close_to_its_shares() -> None:
    rows = demo_rows()
    split = split_rows(rows, TREE, seed=1)
    assert {name: len(indices) for name, indices in split.items()} == {"train": 60, "few": 20, "fewest": 7, "test": 30}
    # One row of a part is 100 / size points; a part is as close as rounding lets it be, or one row further.
    assert deviation(rows, split["train"]) < 100 / 60
    assert deviation(rows, split["test"]) < 100 / 30
    assert deviation(rows, split["few"]) < 100 / 20


def test_a_part_is_stratified_by_kind_of_answer_too() -> None:
    rows = demo_rows()
    split = split_rows(rows, TREE, seed=1)
    kinds = Counter(label for row in rows for label in row.labels if label.startswith(KIND_MARK))
    in_train = Counter(label for index in split["train"] for label in rows[index].labels if label.startswith(KIND_MARK))
    for kind, count in kinds.items():
        assert abs(in_train[kind] - 60 * count / len(rows)) < 1.5, kind


def test_the_seed_alone_decides() -> None:
    rows = demo_rows()
    assert split_rows(rows, TREE, seed=3) == split_rows(rows, TREE, seed=3)
    assert split_rows(rows, TREE, seed=3) != split_rows(rows, TREE, seed=4)


def test_another_process_with_another_hash_seed_splits_alike() -> None:
    code = "import json; from tests.app.ml.test_splitting import *; print(json.dumps(split_rows(demo_rows(), TREE, seed=5)))"
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
            ).stdout
        )
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] == split_rows(demo_rows(), TREE, seed=5)


@pytest.mark.parametrize(("row_count", "label_count"), [(100_000, 12), (20_000, 10_000)])
def test_a_hundred_thousand_rows_take_seconds(row_count: int, label_count: int) -> None:
    rows = [SplitRow(number, (f"c{number * 7919 % label_count}", f"kind {number % 5}")) for number in range(row_count)]
    parts = [SplitPart(name="a", fraction=0.8), SplitPart(name="b", fraction=0.1), SplitPart(name="c", fraction=0.1)]
    started = time.perf_counter()
    split = split_rows(rows, parts, seed=0)
    assert time.perf_counter() - started < 30
    assert [len(split[name]) for name in "abc"] == [row_count * 8 // 10, row_count // 10, row_count // 10]


def test_many_parts_take_seconds_too() -> None:
    rows = [SplitRow(number, (f"c{number * number % 97}", f"kind {number % 5}")) for number in range(5_000)]
    started = time.perf_counter()
    split = split_rows(rows, [SplitPart(name=str(number), fraction=0.02) for number in range(50)], seed=0)
    assert time.perf_counter() - started < 30
    assert {len(one) for one in split.values()} == {100}


def test_fractions_that_sum_to_one_leave_nothing_over() -> None:
    parts = [SplitPart(name=str(number), fraction=fraction) for number, fraction in enumerate((0.1, 0.2, 0.7))]
    for total in (10, 11, 13, 99, 1001):
        assert sum(part_sizes(parts, total=total).values()) == total


def test_a_fraction_within_a_part_is_of_that_part() -> None:
    parts = [SplitPart(name="a", size=50), SplitPart(name="b", fraction=0.5, within="a"), SplitPart(name="c", fraction=0.5)]
    assert part_sizes(parts, total=100) == {"a": 50, "b": 25, "c": 50}


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([SplitPart(name="a", size=60), SplitPart(name="b", size=60)], "parts.1.size"),
        ([SplitPart(name="a", size=60), SplitPart(name="b", fraction=0.6)], "parts.1.fraction"),
        ([SplitPart(name="a", size=60), SplitPart(name="b", size=61, within="a")], "parts.1.size"),
        ([SplitPart(name="a", size=5), SplitPart(name="a", size=5)], "parts.1.name"),
        ([SplitPart(name="a", size=5, within="b"), SplitPart(name="b", size=5)], "parts.0.within"),
        ([SplitPart(name="a", size=5, within="a")], "parts.0.within"),
        ([SplitPart(name="a")], "parts.0.size"),
        ([SplitPart(name="a", size=1, fraction=0.5)], "parts.0.size"),
        ([SplitPart(name="a", fraction=0.001)], "parts.0.fraction"),
    ],
)
def test_parts_that_cannot_be_are_refused_by_name(parts: list[SplitPart], param: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        part_sizes(parts, total=100)
    assert refused.value.param == param


def test_a_part_smaller_than_every_question_is_refused() -> None:
    with pytest.raises(InvalidInput, match="stays empty"):
        split_rows([SplitRow("the same", ("x",))] * 10, [SplitPart(name="a", size=3)], seed=0)


def test_the_kind_of_an_answer_tells_codes_values_and_mixed_apart() -> None:
    assert labels_of_codes(("开通方式_98", "开通方式_97")) == ("开通方式", "|codes 2")
    assert labels_of_codes(("9.9", "11.9")) == ("value", "|values 2")
    assert labels_of_codes(("业务简介_1", "9.9", "a_1", "b_1", "c_1")) == ("业务简介", "value", "a", "b", "c", "|mixed 4")
