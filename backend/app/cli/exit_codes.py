"""What a command's exit code means; documented in docs/operations.md and in `chorus --help`."""

FAILED = 1
"""Not found, refused, or a check that failed."""
USAGE = 2
"""The command line or a setting is wrong. click's own code for usage, too."""
AWAY = 3
"""Redis, the database or WhatsApp did not do it: down, unreachable, or it does not let us in."""
