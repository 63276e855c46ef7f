# What upgrade.sh and rollback.sh share; not for running by itself. DRIVER is compose or processes (default: compose if
# CHORUS is not set). Each driver says how to list, start, look at and stop a replica.

READY_SECONDS=${READY_SECONDS:-60}
STOP_SECONDS=${STOP_SECONDS:-90}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
driver=${DRIVER:-$([ -n "${CHORUS:-}" ] && echo processes || echo compose)}

say() { echo "roll: $*" >&2; }

# The two lists are of words without spaces: container ids, or ports.
roll() {
  old=$(replicas)
  if [ -z "$old" ]; then
    say "nothing runs; starting ${REPLICAS:-3}"
    left=${REPLICAS:-3}
    while [ "$left" -gt 0 ]; do
      start_one
      left=$((left - 1))
    done
  fi
  for replica in $old; do
    start_one
    say "stopping $replica"
    stop "$replica"
  done
  say "running: $(replicas | tr '\n' ' ')"
}

# Starts one and waits until it is ready; if it does not get there, ends it and gives up.
start_one() {
  new=$(start)
  waited=0
  until ready "$new"; do
    if [ "$waited" -ge "$READY_SECONDS" ] || ! runs "$new"; then
      say "$new did not get ready; what ran before goes on"
      show "$new"
      stop "$new" || true
      exit 1
    fi
    sleep 1
    waited=$((waited + 1))
  done
  say "$new is ready"
}

case $driver in
  compose | processes) . "$here/$driver.sh" ;;
  *)
    say "DRIVER must be compose or processes, not $driver"
    exit 2
    ;;
esac
