"""A `docker` for the driver of infra/deploy/compose.sh where no daemon is: containers and images are lines of a file.

STATE names the file; BROKEN an image whose containers do not get ready. What it is asked for and does not know is an
error, so that a command that the driver makes up fails."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

STATE = Path(os.environ["STATE"])


def compose(state: dict, words: list[str]) -> str:
    match words:
        case ["ps", "--quiet", "backend"]:
            return "\n".join(state["containers"])
        case ["up", "--detach", "--no-deps", "--no-recreate", "--scale", scale, "backend"]:
            wanted = int(scale.removeprefix("backend="))
            while len(state["containers"]) < wanted:
                state["made"] += 1
                state["containers"][f"c{state['made']:063d}"] = state["tags"]["chorus:local"]
            state["most"] = max(state["most"], len(state["containers"]))
        case ["build", "backend"]:
            state["tags"]["chorus:local"] = state["next"]
        case ["run", "--rm", "--no-deps", "migrate"]:
            state["migrated_with"] = state["tags"]["chorus:local"]
        case _:
            sys.exit(f"docker compose: not known here: {words}")
    return ""


def docker(state: dict, words: list[str]) -> str:
    match words:
        case ["compose", "--project-directory", _, *rest]:
            return compose(state, rest)
        case ["inspect", "--format", "{{.Image}}", container]:
            return state["containers"][container]
        case ["inspect", "--format", "{{.State.Running}}", container]:
            return str(container in state["containers"]).lower()
        case ["image", "tag", source, target]:
            state["tags"][target] = state["tags"].get(source, source)
        case ["exec", container, "python", "-c", _]:
            if state["containers"][container] == os.environ.get("BROKEN"):
                sys.exit(1)
        case ["logs", "--tail", _, container]:
            return f"log of {container}"
        case ["stop", "--time", _, container]:
            state["stopped"].append(container)
        case ["rm", container]:
            if container not in state["stopped"]:
                sys.exit("it runs")
            del state["containers"][container]
        case _:
            sys.exit(f"docker: not known here: {words}")
    return ""


if __name__ == "__main__":
    loaded = json.loads(STATE.read_text())
    said = docker(loaded, sys.argv[1:])
    STATE.write_text(json.dumps(loaded))
    if said:
        print(said)
