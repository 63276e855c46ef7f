"""`chorus doctor`: the check-up."""

from __future__ import annotations

import asyncio
import sys

import click

from app.cli.exit_codes import FAILED
from app.cli.output import json_option, print_json

MARKS = {"ok": "ok  ", "warn": "warn", "bad": "BAD "}


@click.command()
@click.option("--new-key", is_flag=True, help="Print a new ENCRYPTION_KEY and do nothing else.")
@json_option
def doctor(*, new_key: bool, as_json: bool) -> None:
    """Check each setting and dependency: ok, or what is wrong and how to mend it. Exit code 1 if something is."""
    from app.core.secrets import TokenCipher
    from app.doctor import examine
    from app.settings import load_settings_leniently

    if new_key:
        click.echo(TokenCipher.generate_key())
        return
    findings = asyncio.run(examine(*load_settings_leniently()))
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            click.echo(f"{MARKS[finding.state]}  {finding.subject}" + (f": {finding.detail}" if finding.detail else ""))
            if finding.mend:
                click.echo(f"        -> {finding.mend}")
    sys.exit(FAILED if any(finding.is_bad for finding in findings) else 0)
