"""`python -m bench.quality`: variants of the job spec, seeds and baselines; one JSON line a run, and tables of them.

--choose     scores rows that are cut off the training file; the test files stay shut
--report     scores the test files, for what was chosen
--baselines  what needs no language model, on this CPU
--table      prints the tables of a file of results
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from bench.quality.datasets import DATA_SETS
from bench.quality.tables import tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what is asked for."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse_options(given)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if options.table:
        from bench.quality.queueing import read_results  # noqa: PLC0415  # each part imports what it needs alone

        print(tables(read_results(options.results), mode="report" if options.report else "choose"))
        return 0
    if options.baselines:
        return _baselines(options)
    return _worker(options) if options.queue is not None else _variants(options, given)


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--choose", action="store_true", help="the default")
    mode.add_argument("--report", action="store_true")
    parser.add_argument("--baselines", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--data", type=Path, help="folder with one folder a data set")
    parser.add_argument("--store", type=Path, default=Path(".dianda/models"), help="model store")
    parser.add_argument("--model", default="gemma-3-270m", help="name in the model store")
    parser.add_argument("--datasets", nargs="+", choices=list(DATA_SETS), default=["telecom"])
    parser.add_argument("--variants", default="", help="names, with commas between; default: all of the variants file")
    parser.add_argument("--variants-file", type=Path, help='JSON: {"name": {"from": "lora", …}}')
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="overrides of every variant")
    parser.add_argument("--decisions", default="", help="set, expected_f1: answer once more so, over the widest beam")
    parser.add_argument("--seeds", default="1", help="with commas between")
    parser.add_argument("--parallel", type=int, default=1, help="processes")
    parser.add_argument("--cards", default="", help="with commas between; processes take them in turn")
    parser.add_argument("--threads", type=int, help="of each process, on a CPU")
    parser.add_argument("--start-within", type=float, default=1e9, metavar="SECONDS", help="begin no run later than this")
    parser.add_argument(
        "--results", type=Path, default=Path("quality.jsonl"), help="gets a line a run; runs in it are not done again"
    )
    parser.add_argument("--queue", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(list(arguments))
    if options.data is None and not options.table:
        parser.error("--data FOLDER is needed")
    return options


def _baselines(options: argparse.Namespace) -> int:
    from bench.quality.baselines import run_baselines  # noqa: PLC0415
    from bench.quality.queueing import append_result  # noqa: PLC0415

    for name in options.datasets:
        for result in run_baselines(name, options.data, is_report=options.report):
            append_result(options.results, result)
            scores = ", ".join(f"{part} {scored['exact_match']:.3f}" for part, scored in result["parts"].items())
            print(f"{result['key']}: {scores}; {result['seconds']['job']} s", flush=True)
    return 0


def _variants(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    from bench.quality.queueing import read_results, start_workers, work, write_requests  # noqa: PLC0415
    from bench.quality.running import RunRequest  # noqa: PLC0415
    from bench.quality.variants import find_variants  # noqa: PLC0415
    from bench.restart import restart_with_allocator_environment  # noqa: PLC0415

    restart_with_allocator_environment("bench.quality")
    changes = {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in options.set)}
    variants = find_variants([name for name in options.variants.split(",") if name], options.variants_file, changes)
    done = {result["key"] for result in read_results(options.results)}
    requests = [
        RunRequest(data_set, variant, overrides, int(seed), options.report, options.decisions)
        for seed in options.seeds.split(",")
        for data_set in options.datasets
        for variant, overrides in variants.items()
    ]
    left = [request for request in requests if request.key not in done]
    print(f"{len(left)} of {len(requests)} runs to do.", flush=True)
    until = time.time() + options.start_within
    with tempfile.TemporaryDirectory() as folder:
        queue = Path(folder)
        write_requests(queue, left)
        cards = [card for card in options.cards.split(",") if card]
        if options.parallel == 1 and not cards:
            model = options.store / options.model
            failed = work(queue, options.results, data=options.data, model=model, until=until, threads=options.threads)
            return min(failed, 1)
        return start_workers(options.parallel, cards, [*arguments, "--queue", str(queue), "--until", str(until)])


def _worker(options: argparse.Namespace) -> int:
    from bench.quality.queueing import work  # noqa: PLC0415

    failed = work(
        options.queue,
        options.results,
        data=options.data,
        model=options.store / options.model,
        until=options.until,
        threads=options.threads,
    )
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
