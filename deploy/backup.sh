#!/bin/sh
# Copies the database and the blobs into a new folder; nothing needs to stop. What and why in this order: docs/operations.md
#   DIANDA_DATA_DIR=… [DIANDA_DATABASE_URL=…] sh deploy/backup.sh FOLDER
set -eu
to="${1:?Name a folder that does not exist yet.}"
data="${DIANDA_DATA_DIR:?Set DIANDA_DATA_DIR to the data folder.}"
url="${DIANDA_DATABASE_URL:-sqlite:///$data/dianda.db}"
mkdir -m 700 "$to"
case "$url" in
    sqlite:///*)
        "${PYTHON:-python3}" - "${url#sqlite:///}" "$to/dianda.db" <<'PY'
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

source = Path(sys.argv[1]).resolve()
with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as live, closing(sqlite3.connect(sys.argv[2])) as copy:
    # SQLite's own backup: one state of the database, whoever writes meanwhile.
    live.backup(copy)
PY
        ;;
    *) pg_dump --format=custom --no-owner --file="$to/database.dump" "$(echo "$url" | sed 's/^postgresql+psycopg:/postgresql:/')" ;;
esac
# After the database: a row's blob is older than the row.
set -- blobs
[ ! -f "$data/models/base_models.json" ] || set -- "$@" models/base_models.json
# tar's exit code 1: a file went away or changed while it was read. The others are whole, for blobs never change.
tar -C "$data" -cf "$to/blobs.tar" --exclude='.*.tmp-*' --exclude='.*.gone-*' "$@" || [ $? = 1 ]
echo "Backed up into $to."
