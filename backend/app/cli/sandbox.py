"""`chorus sandbox`: stand-ins for the outside world."""

from __future__ import annotations

import click

from app.cli.repository_only import left_out_of_the_image


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=9000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--app-secret", default="sandbox-app-secret", show_default=True, help="Signs the webhooks it sends.")
@click.option("--callback", multiple=True, help="Webhook URL of a replica; may be repeated.")
def sandbox(host: str, port: int, app_secret: str, callback: tuple[str, ...]) -> None:
    """Stand-ins for the WhatsApp Cloud API and Gemini, with fault injection."""
    with left_out_of_the_image():
        from app.sandbox.app import serve_sandbox

    serve_sandbox(host=host, port=port, app_secret=app_secret, callbacks=callback)
