#!/bin/sh
# rollback.sh: the version before again, the same way as upgrade.sh and with the same exit codes. No migration is undone: the
# version before works on the newer schema, and says so in its log.
#
# With Docker: chorus:previous, as upgrade.sh left it. Without: CHORUS=/path/to/the/old/version's/chorus.
set -eu
. "$(dirname -- "$0")/roll.sh"
prepare_previous
roll
