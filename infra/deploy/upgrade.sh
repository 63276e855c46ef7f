#!/bin/sh
# upgrade.sh: the new version's migrations, then the new version's replicas in the place of the old ones, one at a time. Each
# old one drains and ends only after a new one is ready. Nothing is running yet: start REPLICAS of the new version.
#
# With Docker (docker-compose.yml in this folder's repository): check out the new version, run this. The image that ran
# before is kept as chorus:previous.
# Without Docker: CHORUS=/path/to/the/new/version's/chorus, PORTS (one more than replicas run; the balancer knows them all)
# and RUN_DIR; the settings come from the environment, or .env in the current folder.
#
# Exit code 0: only new replicas run. 1: a new one did not get ready and was ended; old ones go on. See roll.sh.
set -eu
. "$(dirname -- "$0")/roll.sh"
prepare_new
migrate
roll
