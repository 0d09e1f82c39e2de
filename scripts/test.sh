#!/bin/sh
# Every check of `make test`; stops at the first that fails.
set -eu
echo "== style";     "$BIN/ruff" format --check --quiet . && "$BIN/ruff" check --quiet .
echo "== types";     "$BIN/mypy" --no-error-summary
echo "== contracts"; "$BIN/lint-imports" --no-cache > .import_linter.log || { cat .import_linter.log; exit 1; }
echo "== tests";     "$BIN/pytest" -q
