"""`chorus demo`: everything on this machine."""

from __future__ import annotations

import sys

import click

from app.cli.repository_only import left_out_of_the_image


@click.command()
@click.option("--once", is_flag=True, help="End after the conversation; exit code 0 only if every reply was right.")
def demo(*, once: bool) -> None:
    """Servers, sandbox, three replicas and simulated customers, all on this machine."""
    with left_out_of_the_image():
        from app.demo.run import run_demo

    sys.exit(run_demo(once=once))
