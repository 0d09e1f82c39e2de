"""`KILLS=30 SEED=… RECOVERY_LIMIT_S=45 python -m tests.faults`: ends with one JSON line; exit code 1 where an invariant broke."""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults.driver import Driver
from tests.faults.house import open_house
from tests.faults.invariants import RECOVERY_LIMIT_S


def main() -> int:
    """Runs the suite and prints its figures."""
    # Whoever ends it, Ctrl-C or not: the house is closed and its disk taken away.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    kills = int(os.environ.get("KILLS", "30"))
    seed = int(os.environ.get("SEED", str(random.SystemRandom().randrange(1 << 31))))
    print(f"seed {seed}", file=sys.stderr, flush=True)
    evidence = Path(os.environ.get("EVIDENCE", f"faults-{seed}")).resolve()
    root = Path(tempfile.mkdtemp(prefix="dianda-faults-"))
    try:
        with open_house(root) as house:
            figures = Driver(house, random.Random(seed), kills, evidence).run()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if figures["violations"]:
        print(f"What was seen: {evidence}", file=sys.stderr)
    print(json.dumps({"seed": seed, "recovery_limit_s": RECOVERY_LIMIT_S, **figures}, ensure_ascii=False))
    return 1 if figures["violations"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
