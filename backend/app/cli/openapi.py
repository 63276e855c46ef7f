"""`chorus openapi`: the document of the HTTP interface."""

from __future__ import annotations

import click
import orjson


@click.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP interface (docs/openapi.json)."""
    from app.main import openapi_document

    click.echo(orjson.dumps(openapi_document(), option=orjson.OPT_INDENT_2))
