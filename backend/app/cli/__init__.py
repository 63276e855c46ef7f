"""`chorus`: serve · migrate · doctor · fleet · breakers · cache · queue · account · demo · sandbox, a file for each."""

from app.cli.root import main

__all__ = ["main"]
