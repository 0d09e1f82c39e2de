#!/bin/sh
# Brings back what backup.sh copied: into an empty database and an empty data folder. Stop everything else first.
#   DIANDA_DATA_DIR=… [DIANDA_DATABASE_URL=…] sh deploy/restore.sh FOLDER
set -eu
from="${1:?Name the folder of the backup.}"
data="${DIANDA_DATA_DIR:?Set DIANDA_DATA_DIR to the new data folder.}"
url="${DIANDA_DATABASE_URL:-sqlite:///$data/dianda.db}"
if [ -e "$data/blobs" ] && [ -n "$(ls -A "$data/blobs")" ]; then
    echo "$data/blobs is not empty. Restore into a new data folder, so that nothing is mixed." >&2
    exit 1
fi
mkdir -p "$data"
case "$url" in
    sqlite:///*)
        place="${url#sqlite:///}"
        [ ! -e "$place" ] || { echo "$place is there already. Move it away first." >&2; exit 1; }
        cp "$from/dianda.db" "$place"
        ;;
    *) pg_restore --exit-on-error --single-transaction --no-owner \
        --dbname="$(echo "$url" | sed 's/^postgresql+psycopg:/postgresql:/')" "$from/database.dump" ;;
esac
tar -C "$data" -xf "$from/blobs.tar"
echo "Restored from $from. Now: dianda migrate, then start everything; base models: dianda models import NAME"
