"""`chorus fleet`: who lives. Straight from Redis, so that it also works when no replica answers."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import click

from app.cli.output import json_option, print_json, span
from app.cli.settings import settings_with_redis

if TYPE_CHECKING:
    from app.core.fleet.registry import Replica
    from app.domain.models import Json


@click.command()
@json_option
def fleet(*, as_json: bool) -> None:
    """Every living replica: version, build, host, role, state, load, and the circuits it does not see closed."""
    replicas = asyncio.run(_replicas())
    if as_json:
        print_json(replicas)
        return
    click.echo(
        f"{'replica':<40} {'version':<24} {'role':<7} {'state':<9} {'health':<9} {'busy':>9} {'up':>8} {'beat':>6}"
        "  circuits"
    )
    for replica in replicas:
        info = replica.info
        busy = f"{info.get('active', 0)}/{info.get('concurrency', '?')}" if info.get("role") != "api" else "-"
        cut_off = [f"cut off from {name}" for name in info.get("cut_off", ())]
        circuits = ", ".join(
            [f"{name} {state}" for name, state in info.get("breakers", {}).items() if state != "closed"] + cut_off
        )
        click.echo(
            f"{replica.id:<40} {_version(info):<24} {info.get('role', '?'):<7} {info.get('phase', '?'):<9} "
            f"{info.get('status', '?'):<9} {busy:>9} {span(time.time() - info.get('started_at', time.time())):>8} "
            f"{replica.silent_seconds:>4.1f} s  {circuits}".rstrip()
        )
    click.echo(f"{len(replicas)} alive" if replicas else "no replica is alive")


def _version(info: Json) -> str:
    """Two builds of one version differ in what stands in brackets."""
    version = str(info.get("version", "?"))
    return f"{version} ({info['build'][:16]})" if info.get("build") else version


async def _replicas() -> list[Replica]:
    from app.core.fleet.registry import Registry
    from app.wiring import open_door

    settings = settings_with_redis()
    async with AsyncExitStack() as stack:
        redis = open_door(settings.redis_url or "", stack)
        return await Registry(redis, namespace=settings.redis_namespace, replica_id="cli").replicas()
