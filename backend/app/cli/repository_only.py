"""Commands whose code is not in the production image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

STAND_INS = ("app.sandbox", "app.localhost", "app.demo")


@contextmanager
def left_out_of_the_image() -> Iterator[None]:
    """The production image has none of `STAND_INS`: say so instead of showing where an import failed."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if not (exc.name or "").startswith(STAND_INS):
            raise
        raise click.ClickException("the sandbox is not part of this installation; run it from the repository") from None
