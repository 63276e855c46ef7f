"""Does the check notice? Each safeguard is taken out of a copy of the sources, and its scenario must then fail.

    python -m tests.chaos.mutations                           # all, and every scenario on an unchanged copy first
    python -m tests.chaos.mutations dedupe
    python -m tests.chaos.mutations --mutants-only --seed 7   # as `make chaos` does

A mutation names the text it replaces. When the source has moved on, it says so instead of passing for the wrong reason.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .catalogue import EVERY_SCENARIO, IN_TURN, LONG, place_of, scenarios_of
from .moved_clock import LIBRARIES
from .scenarios import Broken
from .world import running_world

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("backend", "infra", "tests")
BROKEN = 3
"""Exit code of a scenario whose promise did not hold; anything else but 0 is trouble of another kind."""
START_SECONDS = 90
SCENARIO_SECONDS = 90
LONG_SECONDS = 180

LUA = "backend/app/core/lua/"
SERVICES = "backend/app/services/"
ADAPTERS = "backend/app/adapters/"
REPLIES = "infra/supabase/migrations/20261123000004_chorus_replies.sql"
COVERS = "infra/supabase/migrations/20261127000240_chorus_reply_covers.sql"
COVERS_APART = "infra/supabase/migrations/20261127000242_chorus_reply_covers_apart.sql"
AT_ONCE = 3
"""Copies that are played at a time: most of a scenario waits, and what must fail may fail late."""


@dataclass(frozen=True, slots=True)
class Edit:
    path: str
    old: str
    new: str
    times: int = 1

    def apply(self, root: Path) -> None:
        file = root / self.path
        text = file.read_text(encoding="utf-8")
        if text.count(self.old) != self.times:
            raise SystemExit(
                f"{self.path} has {self.old!r} {text.count(self.old)} times, not {self.times}: mend this list"
            )
        file.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Mutation:
    scenario: str
    edits: Sequence[Edit]


NO_RECORDS_AND_PROOFS = [
    Edit(f"{ADAPTERS}sql_store.py", "if operation in _RECORDS_A_SEND:", "if False:"),
    Edit(f"{SERVICES}delivery.py", "if self.clock.monotonic() >= deadline:", "if True:"),
    Edit(f"{SERVICES}proofs.py", "if wamid := await self._receipts.find(key):", "if wamid := None:"),
    Edit(f"{SERVICES}proofs.py", "if outbound_key(incoming) == key:", "if False:"),
    Edit(f"{SERVICES}proofs.py", "return self._uptime.lost_seconds(since)", "return 0.0"),
]
CLAIMS_WHAT_IT_CANNOT_DO = [Edit("backend/app/wiring.py", " is_cut_off=cut_off.leaves_work_to_others,", "")]
NO_LOOK_OPENS_A_CIRCUIT = [
    Edit(f"{SERVICES}probes.py", 'dependency.circuit.seen_ill(dependency.error or "", start)', "pass")
]
NO_QUORUM = [Edit("backend/app/core/circuit_breaker/rules.py", "quorum: int = 2", "quorum: int = 1")]
MUTATIONS: dict[str, Mutation] = {
    "taking over": Mutation(
        "killed_while_generating",
        [Edit(f"{LUA}queue_claim.lua", 'lease, "-inf", now, "WITHSCORES"', 'lease, "-inf", now - 5000, "WITHSCORES"')],
    ),
    "dedupe": Mutation(
        "delivered_again_beside_news",
        [Edit(f"{LUA}queue_put.lua", '"SET", mark, "", "NX", "EX", dedupe', '"SET", mark, "", "EX", dedupe')],
    ),
    "fencing": Mutation(
        "frozen_past_its_lease",
        [
            Edit(f"{SERVICES}inbox_worker.py", "if not self.claim.is_held():", "if False:"),
            Edit(f"{LUA}queue_settle.lua", "if owner == ARGV[5 * i + 1] and not ends", "if not ends"),
            Edit(f"{LUA}queue_refresh.lua", 'redis.call("HGET", KEYS[1] .. "own", ARGV[i]) == ARGV[i + 1]', "true"),
            Edit(f"{LUA}queue_extend.lua", "local held = owner == ARGV[2 * i + 1]", "local held = true"),
            Edit(COVERS, "if v_reply.fence > v_fence then", "if false then", times=2),
            Edit(COVERS_APART, "if v_reply.fence > v_fence then", "if false then"),
            Edit(REPLIES, "if v_reply.fence > (p->>'fence')::bigint then", "if false then", times=2),
        ],
    ),
    "stored reply": Mutation(
        "killed_between_send_and_record",
        [
            Edit(
                f"{SERVICES}bot_service.py",
                "key=work.covers[0],",
                'key=f"{work.covers[0]}-{work.hold.fence}",',
                times=2,
            ),
            Edit(COVERS, "and c.wamid = any (wamids)", "and false"),
        ],
    ),
    "turns": Mutation(
        "answers_of_one_moment",
        [
            Edit(
                "backend/app/core/redis/corrections.py",
                "        await self._turns.acquire()\n",
                "",
            ),
            Edit("backend/app/capacity.py", "answers + SPARE_REDIS_CONNECTIONS", "20"),
        ],
    ),
    "waiting for a turn": Mutation(
        "database_slots_taken",
        [Edit(f"{ADAPTERS}database_trouble.py", "PATIENCE_SECONDS = 10.0", "PATIENCE_SECONDS = 1.0")],
    ),
    "a circuit per model": Mutation(
        "anothers_model_is_down",
        [Edit("backend/app/adapters/gemini.py", "if self._is_chosen(prompt):", "if False:")],
    ),
    "records and proofs": Mutation("gone_while_sending", NO_RECORDS_AND_PROOFS),
    "records and proofs, frozen": Mutation("frozen_while_sending", NO_RECORDS_AND_PROOFS),
    "records, proofs and patience": Mutation(
        "slow_while_sending",
        [
            *NO_RECORDS_AND_PROOFS,
            Edit(f"{ADAPTERS}database_trouble.py", "PATIENCE_SECONDS = 10.0", "PATIENCE_SECONDS = 0.1"),
        ],
    ),
    "looks at the model": Mutation(
        "gemini_back", [Edit(f"{SERVICES}probes.py", "            await circuit.seen_well()\n", "            pass\n")]
    ),
    "share of the database": Mutation(
        "locked_account",
        [
            Edit(f"{ADAPTERS}database_trouble.py", "LOCK_SECONDS = 0.4", "LOCK_SECONDS = 4.0"),
            Edit(f"{ADAPTERS}database_trouble.py", '"55P03": Trouble.LOCKED', '"55P03": Trouble.BUSY'),
            Edit(f"{SERVICES}inbox_worker.py", "Caller(Rank.BACKGROUND, _account_of(claim))", "Caller()"),
        ],
    ),
    "search": Mutation(
        "wiped_redis",
        [Edit("backend/app/loops.py", 'duties["unanswered"] = UnansweredSearch(queue, store).look', "pass")],
    ),
    "watch of the database's history": Mutation(
        "database_loses_seconds",
        [
            Edit(
                "backend/app/loops.py",
                '        "database": DatabaseWatch('
                "store, cache.invalidate_everywhere, outside.redis, namespace=namespace).look,\n",
                "",
            )
        ],
    ),
    "overflow": Mutation(
        "full_mailbox",
        [Edit("backend/app/wiring.py", "before(intake)", "before(inbox or outside.queue)")],
    ),
    "hopeless waits": Mutation(
        "quota_for_a_day",
        [
            Edit(
                f"{SERVICES}composer.py",
                "if blocked > 0 and self.model.away_seconds(profile) <= self._seconds_left(work):",
                "if blocked > 0:",
            )
        ],
    ),
    "word of dead letters": Mutation(
        "given_up_message_calls_a_person",
        [Edit("backend/app/loops.py", '        "dead_letters": dead_letters.tell,\n', "")],
    ),
    "lease renewal": Mutation(
        "slower_than_the_lease",
        [Edit("backend/app/loops.py", '        start("lease_renewal", replica.worker.loop.renew)\n', "")],
    ),
    "leaving work to others": Mutation("gemini_lost_by_one", CLAIMS_WHAT_IT_CANNOT_DO),
    "leaving work to others, WhatsApp": Mutation("whatsapp_lost_by_one", CLAIMS_WHAT_IT_CANNOT_DO),
    "leaving work to others, database": Mutation("database_lost_by_one", CLAIMS_WHAT_IT_CANNOT_DO),
    "looks at calls that hang": Mutation(
        "gemini_lost_by_one_silent", NO_LOOK_OPENS_A_CIRCUIT
    ),
    "leaving work to others, silent WhatsApp": Mutation("whatsapp_lost_by_one_silent", CLAIMS_WHAT_IT_CANNOT_DO),
    "leaving work to others, silent database": Mutation("database_lost_by_one_silent", CLAIMS_WHAT_IT_CANNOT_DO),
    "leaving work to others, Gemini from the start": Mutation("gemini_lost_by_one_start", CLAIMS_WHAT_IT_CANNOT_DO),
    "quorum": Mutation("whatsapp_lost_by_one_start", NO_QUORUM),
    "schema gate": Mutation(
        "database_lost_by_one_start",
        [
            *CLAIMS_WHAT_IT_CANNOT_DO,
            Edit("backend/app/wiring.py", "may_claim=lambda: schema.is_open() and namespace.is_open(),", ""),
        ],
    ),
    "stalls": Mutation(
        "woken_replica",
        [Edit("backend/app/core/loop_watch.py", "return _STALLS.since(since, time.monotonic())", "return 0.0")],
    ),
    "probes past the circuit": Mutation(
        "database_back_after_two_seconds",
        [Edit(f"{SERVICES}probes.py", "            await circuit.seen_well()\n", "            pass\n")],
    ),
    "telling those who wait for the same": Mutation(
        "no_connection_left",
        [
            Edit(
                f"{SERVICES}inbox_worker.py",
                "if shared_by := self._lacking.pop(claim.mailbox, None):",
                "if shared_by := None:",
            ),
            *NO_LOOK_OPENS_A_CIRCUIT,
        ],
    ),
    "files that are kept": Mutation(
        "files_fetched_once_when_killed",
        [Edit(f"{SERVICES}attachments.py", "        if media.state != MediaState.PENDING:\n", "        if False:\n")],
    ),
    "write probe": Mutation(
        "full_redis", [Edit("backend/app/wiring.py", "        await outside.queue.probe()\n", "        pass\n")]
    ),
    "namespace check": Mutation(
        "another_database_on_the_namespace",
        [Edit("backend/app/cli/serve.py", "    asyncio.run(refuse_foreign_namespace(settings))\n", "")],
    ),
}  # fmt: skip
if "pooler_switched" in EVERY_SCENARIO:
    MUTATIONS["signs of a pooler"] = Mutation(
        "pooler_switched", [Edit(f"{ADAPTERS}postgres_pooling.py", 'frozenset({"26000", "42P05"})', "frozenset()")]
    )
if "names_that_hang" in EVERY_SCENARIO:
    MUTATIONS["own look-ups"] = Mutation(
        "names_that_hang", [Edit("backend/app/server.py", "app.core.event_loop:ResolvingLoop", "uvloop")]
    )
if LIBRARIES:
    MUTATIONS |= {
        "clock rules": Mutation(
            "clock_an_hour_ahead",
            [
                Edit(
                    f"{LUA}queue_audit.lua",
                    "elseif not wait and tonumber(due) > now + debounce then",
                    "elseif false then",
                ),
                Edit(f"{LUA}pace.lua", "if paid > now + burst * interval then paid = now end", ""),
            ],
        ),
    }


def mutations_of(seed: int) -> list[str]:
    """Of the scenarios of this seed; every second one of those that are played with each seed."""
    played = scenarios_of(seed)
    return [
        name
        for number, (name, mutation) in enumerate(MUTATIONS.items())
        if mutation.scenario in played and (mutation.scenario in IN_TURN or number % 2 == seed % 2)
    ]


def run_scenarios(root: Path, names: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """In a process of its own, on the sources under `root`."""
    env = os.environ | {"PYTHONPATH": str(root / "backend")}
    command = [sys.executable, "-m", "tests.chaos.mutations", "--scenarios", *names]
    limit = START_SECONDS + sum(LONG_SECONDS if name in LONG else SCENARIO_SECONDS for name in names)
    try:
        return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, stdout=f"no end within {limit} s", stderr="")


def check(names: Sequence[str], *, with_unchanged: bool) -> int:
    """`with_unchanged`: the scenarios first on a copy without a mutation, alone."""
    failures = 0
    with tempfile.TemporaryDirectory(prefix="chorus-mutants-") as folder:
        if with_unchanged:
            scenarios = list(dict.fromkeys(MUTATIONS[name].scenario for name in names))
            failures += _play("nothing", _copy(Path(folder) / "unchanged"), scenarios, expected=0)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            failures += sum(pool.map(lambda name: _play_without(name, Path(folder)), names))
    return failures


def _play_without(name: str, folder: Path) -> int:
    mutant = _copy(folder / name.replace(" ", "-"))
    for edit in MUTATIONS[name].edits:
        edit.apply(mutant)
    return _play(name, mutant, [MUTATIONS[name].scenario], expected=BROKEN)


def _copy(root: Path) -> Path:
    for name in COPIED:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    return root


def _play(removed: str, root: Path, scenarios: Sequence[str], *, expected: int) -> int:
    started = time.monotonic()
    done = run_scenarios(root, scenarios)
    good = done.returncode == expected
    told = done.stdout.strip().splitlines()[-1:] or done.stderr.strip().splitlines()[-1:]
    verdict = ("fails, as it must" if expected else "holds") if good else f"WRONG (exit code {done.returncode})"
    seconds = time.monotonic() - started
    details = "" if good else done.stderr[-3000:]
    sys.stdout.write(f"without {removed:<34} {verdict} ({seconds:.0f} s): {' '.join(told)[:300]}\n{details}")
    sys.stdout.flush()
    return int(not good)


async def _scenarios(names: Sequence[str]) -> int:
    for place in dict.fromkeys(place_of(name) for name in names):
        async with running_world(settings=dict(place.settings), businesses=2, valkey=place.server) as world:
            for name in (name for name in names if place_of(name) == place):
                try:
                    await EVERY_SCENARIO[name](world)
                except (Broken, TimeoutError) as exc:
                    sys.stdout.write(f"{name}: {exc}\n")
                    return BROKEN
    sys.stdout.write(f"{', '.join(names)}\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutations")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MUTATIONS))
    parser.add_argument(
        "--scenarios", action="store_true", help="NAME is a scenario: play it on the sources as they are"
    )
    parser.add_argument("--mutants-only", action="store_true", help="not the scenarios on an unchanged copy first")
    parser.add_argument("--seed", type=int, help="those whose turn it is with this seed")
    asked = parser.parse_args()
    if asked.scenarios:
        return asyncio.run(_scenarios(asked.names))
    names = asked.names or list(MUTATIONS)
    if asked.seed is not None:
        names = mutations_of(asked.seed)
    return check(names, with_unchanged=not asked.mutants_only)


if __name__ == "__main__":
    sys.exit(main())
