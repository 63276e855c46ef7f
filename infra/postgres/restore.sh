#!/bin/sh
# restore.sh DATABASE_URL FILE: what backup.sh (or pg_dump) wrote, into an empty database, all of it or nothing. Everything
# then belongs to the user of DATABASE_URL. Roles are no part of a dump, so they are made first: without them each policy
# and each grant would be an error that a plain pg_restore counts and passes over.
set -eu
[ $# -eq 2 ] || { echo "usage: restore.sh DATABASE_URL FILE" >&2; exit 2; }
url=$1 file=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
sql() { psql --dbname="$url" --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 "$@"; }
[ -r "$file" ] || { echo "restore: $file cannot be read" >&2; exit 2; }
if [ -n "$(sql --command="select to_regnamespace('chorus')")" ]; then
  echo "restore: the database has a schema of Chorus already; restore into an empty one" >&2
  exit 2
fi
if ! sql --file="$here/roles.sql"; then
  echo "restore: an administrator must first run infra/postgres/roles.sql" >&2
  exit 2
fi
if [ "$(head -c 5 "$file")" = PGDMP ]; then
  pg_restore --dbname="$url" --no-owner --exit-on-error --single-transaction "$file"
else
  sql --single-transaction --output=/dev/null --file="$file"
fi
echo "restored; now: chorus migrate, then chorus doctor"
