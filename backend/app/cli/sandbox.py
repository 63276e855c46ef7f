"""`chorus sandbox`: stand-ins for the outside world, and writing to a business as its customer."""

from __future__ import annotations

import asyncio

import click

from app.cli.exit_codes import AWAY, FAILED
from app.cli.output import json_option, print_json
from app.cli.repository_only import left_out_of_the_image

REPLY_SECONDS = 60.0


@click.group(invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=9000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--app-secret", default="sandbox-app-secret", show_default=True, help="Signs the webhooks it sends.")
@click.option("--callback", multiple=True, help="Webhook URL of a replica; may be repeated.")
@click.pass_context
def sandbox(context: click.Context, host: str, port: int, app_secret: str, callback: tuple[str, ...]) -> None:
    """Stand-ins for the WhatsApp Cloud API and Gemini, with fault injection."""
    if context.invoked_subcommand:
        return
    with left_out_of_the_image():
        from app.sandbox.app import serve_sandbox

    serve_sandbox(host=host, port=port, app_secret=app_secret, callbacks=callback)


@sandbox.command("say")
@click.argument("text")
@click.option("--url", default="http://127.0.0.1:9000", show_default=True, help="Of the sandbox; the demo prints it.")
@click.option("--from", "sender", default="33600000000", show_default=True, help="Your number: digits.")
@click.option("--wait", default=REPLY_SECONDS, show_default=True, help="For the answer, in seconds; 0: do not wait.")
@json_option
def say(text: str, url: str, sender: str, wait: float, *, as_json: bool) -> None:
    """Write TEXT to the business as one of its customers, and print the answer.

    Exit code 1: no answer came in time, or no replica took the message. 3: no sandbox at that URL.
    """
    with left_out_of_the_image():
        from app.sandbox.client import SandboxClient, SandboxRefused
    from app.core.http_client import HttpError, close_http_client

    async def talk() -> list[str]:
        sandbox = SandboxClient(url)
        try:
            said = await sandbox.say(text, sender=sender)
            if not wait:
                return []
            where = {"kind": "send", "to": said["to"], "after": said["after"]}
            return [str(sent["text"]) for sent in await sandbox.wait(1, timeout_seconds=wait, **where)]
        finally:
            await close_http_client()

    try:
        answers = asyncio.run(talk())
    except HttpError as exc:
        click.echo(f"chorus: no sandbox answers at {url} ({exc}); the demo prints its --url", err=True)
        raise SystemExit(AWAY) from None
    except SandboxRefused as exc:
        click.echo(f"chorus: {exc}", err=True)
        raise SystemExit(FAILED) from None
    except TimeoutError:
        click.echo(f"chorus: no answer within {wait:g} s", err=True)
        raise SystemExit(FAILED) from None
    if as_json:
        print_json(answers)
    else:
        click.echo("\n".join(answers) or "accepted")
