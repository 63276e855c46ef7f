# The driver of roll.sh for docker-compose.yml. A replica's name is its container's id.

compose() { docker compose --project-directory "$here/../.." "$@"; }

prepare_new() {
  images=$(for id in $(replicas); do docker inspect --format '{{.Image}}' "$id"; done | sort -u)
  # After an upgrade that stopped half-way two images run: the one kept then is still the version before.
  case $(echo "$images" | wc -w | tr -d ' ') in
    1) docker image tag "$images" chorus:previous ;;
  esac
  compose build backend
}

prepare_previous() { docker image tag chorus:previous chorus:local; }

migrate() { compose run --rm --no-deps migrate; }

replicas() { compose ps --quiet backend; }

start() {
  before=$(replicas)
  count=$(echo "$before" | wc -w | tr -d ' ')
  compose up --detach --no-deps --no-recreate --scale "backend=$((count + 1))" backend >&2
  for id in $(replicas); do
    case $before in
      *"$id"*) ;;
      *) echo "$id" ;;
    esac
  done
}

ready() {
  docker exec "$1" python -c \
    "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)" 2>/dev/null
}

runs() { [ "$(docker inspect --format '{{.State.Running}}' "$1")" = true ]; }

show() { docker logs --tail 20 "$1" >&2; }

stop() {
  docker stop --time "$STOP_SECONDS" "$1" >/dev/null
  docker rm "$1" >/dev/null
}
