"""`make bench`, or `python -m tests.bench` and some of BENCHMARKS."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Mapping

from tests.bench import answer, end_to_end, headline, ingest, lists, mixed, queue_rates, sizing, streams
from tests.bench.machine import Stage, describe, load, stage
from tests.bench.peers import beside_peers
from tests.bench.report import Bar

BENCHMARKS: Mapping[str, Callable[[Stage], tuple[list[str], list[Bar]]]] = {
    "ingest": ingest.run,
    "end_to_end": end_to_end.run,
    "answer": answer.run,
    "queue": queue_rates.run,
    "mixed": mixed.run,
    "lists": lists.run,
    "headline": headline.run,
    "sizing": sizing.run,
    "streams": streams.run,
    "http": beside_peers("tests.bench.http"),
    "cache": beside_peers("tests.bench.cache"),
    "breaker": beside_peers("tests.bench.breaker"),
}


def say(*lines: object) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """0 whatever the figures are; 1 if a benchmark could not be carried out."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What Chorus is held to, measured here.")
    parser.add_argument(
        "names", nargs="*", choices=[*BENCHMARKS, []], metavar="name", help=f"of {', '.join(BENCHMARKS)}"
    )
    names = parser.parse_args().names or list(BENCHMARKS)
    bars, broken = [], False
    with stage() as servers:
        say(describe(servers.redis))
        for name in names:
            say("", f"== {name}: {load()}")
            try:
                lines, judged = BENCHMARKS[name](servers)
            except Exception:  # noqa: BLE001  the other benchmarks can still be run
                broken = True
                say(traceback.format_exc())
                continue
            say(*lines)
            bars += judged
    say("", "== bars", *bars)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
