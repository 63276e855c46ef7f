#!/bin/sh
# backup.sh DATABASE_URL FILE: the whole database in pg_dump's custom format; FILE ending in .sql: as plain SQL.
# pg_dump must be as new as the server, or newer.
set -eu
[ $# -eq 2 ] || { echo "usage: backup.sh DATABASE_URL FILE" >&2; exit 2; }
umask 077
case $2 in
  *.sql) pg_dump --dbname="$1" --no-owner --file="$2" ;;
  *) pg_dump --dbname="$1" --format=custom --file="$2" ;;
esac
