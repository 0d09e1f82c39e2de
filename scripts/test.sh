#!/bin/sh
# Every check of `make test`; stops at the first that fails.
set -eu
echo "== style";     "$BIN/ruff" format --check --quiet . && "$BIN/ruff" check --quiet .
echo "== types";     "$BIN/mypy" --no-error-summary
echo "== contracts"; "$BIN/lint-imports" --no-cache > .import_linter.log || { cat .import_linter.log; exit 1; }
# The tests of a file stay in one process; each may take 2 GiB.
: "${TEST_PROCESSES:=$(( $(nproc) < 8 ? $(nproc) : 8 ))}"
# One thread each, else every small product of matrices would wake threads for all cores.
echo "== tests";     OMP_NUM_THREADS=1 "$BIN/pytest" -q -n "$TEST_PROCESSES" --dist loadfile --no-loadscope-reorder --durations=15
