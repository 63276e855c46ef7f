# The driver of roll.sh for replicas that are processes of this machine. A replica's name is its port, one of PORTS; its
# process id and its log are in RUN_DIR.

: "${CHORUS:?the chorus command of the version to run}"
PORTS=${PORTS:-8001 8002 8003 8004}
RUN_DIR=${RUN_DIR:-.data/replicas}
mkdir -p "$RUN_DIR"

prepare_new() { :; }

prepare_previous() { :; }

migrate() { "$CHORUS" migrate >&2; }

pid_of() { cat "$RUN_DIR/$1.pid" 2>/dev/null; }

# A process that has ended keeps its id until its parent reads its exit status.
runs() {
  pid=$(pid_of "$1") && kill -0 "$pid" 2>/dev/null &&
    case $(ps -o stat= -p "$pid" 2>/dev/null || sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) in Z*) false ;; esac
}

replicas() {
  for port in $PORTS; do
    if runs "$port"; then echo "$port"; fi
  done
}

start() {
  for port in $PORTS; do
    if ! runs "$port"; then
      nohup "$CHORUS" serve --port "$port" >>"$RUN_DIR/$port.log" 2>&1 </dev/null &
      echo $! >"$RUN_DIR/$port.pid"
      echo "$port"
      return
    fi
  done
  say "no port of PORTS is free: there must be one more than replicas run"
  exit 1
}

ready() {
  url=http://127.0.0.1:$1/health/ready
  if command -v curl >/dev/null; then
    curl --silent --fail --max-time 2 --output /dev/null "$url"
  elif command -v wget >/dev/null; then
    wget --quiet --timeout=2 --tries=1 --output-document=/dev/null "$url"
  else
    python3 -c "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=2)" "$url" 2>/dev/null
  fi
}

show() { tail -n 20 "$RUN_DIR/$1.log" >&2; }

stop() {
  if runs "$1"; then kill -TERM "$(pid_of "$1")"; fi
  waited=0
  while runs "$1"; do
    if [ "$waited" -ge "$STOP_SECONDS" ]; then
      say "$1 does not end; its process is $(pid_of "$1")"
      return 1
    fi
    sleep 1
    waited=$((waited + 1))
  done
  rm -f "$RUN_DIR/$1.pid"
}
