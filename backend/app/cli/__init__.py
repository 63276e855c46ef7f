"""`chorus`: a file for each command, or group of commands."""

from app.cli.root import main

__all__ = ["main"]
