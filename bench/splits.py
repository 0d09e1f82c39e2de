"""How far split parts lie from the shares of their file: `python -m bench.splits FILE [SEED …]`.

Cuts 400 rows, 100 within them, and 100 others, as the recipe that this product replaces; prints a Markdown table.
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from app.ml.formats.reading import read_examples
from app.ml.splitting import KIND_MARK, SplitPart, SplitRow, labels_of_codes, split_rows

PARTS = (
    SplitPart(name="train_400", size=400),
    SplitPart(name="train_100", size=100, within="train_400"),
    SplitPart(name="test_100", size=100),
)


def main(path: Path, seeds: Sequence[int]) -> None:
    """Prints one line a part and seed."""
    rows = [SplitRow(example.question, labels_of_codes(example.codes)) for example in read_examples(path)]
    before = _shares(rows)
    counted = {category: share for category, share in before.items() if share > 1}
    print(f"{path.name}: {len(rows)} rows, {len(before)} categories, {len(counted)} above 1 %.\n")
    print("| seed | part | rows | largest deviation, points | of category | seconds of the split |")
    print("| --- | --- | --- | --- | --- | --- |")
    for seed in seeds:
        started = time.perf_counter()
        chosen = split_rows(rows, PARTS, seed=seed)
        seconds = time.perf_counter() - started
        for part in PARTS:
            after = _shares([rows[index] for index in chosen[part.name]])
            worst = max(counted, key=lambda category: abs(after.get(category, 0.0) - counted[category]))
            deviation = abs(after.get(worst, 0.0) - counted[worst])
            print(f"| {seed} | {part.name} | {len(chosen[part.name])} | {deviation:.2f} | {worst} | {seconds:.1f} |")


def _shares(rows: Sequence[SplitRow]) -> dict[str, float]:
    counts = Counter(label for row in rows for label in row.labels if not label.startswith(KIND_MARK))
    return {category: 100 * count / len(rows) for category, count in counts.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]] or [1, 2, 3])
