"""What became of every message, from the sandbox's record, the database and the queue's keys; none of it from logs."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.sandbox.client import JsonObject

from .traffic import Message
from .world import FALLBACK_TEXT, PREFIX, ChaosWorld

MARKER = re.compile(r"#c\d+m\d+")


@dataclass
class Verdict:
    """`problems` empty: the promise held."""

    problems: list[str] = field(default_factory=list)
    messages: int = 0
    replies: int = 0
    lost: int = 0
    duplicated: int = 0
    ambiguous_reconciled: int = 0
    """The answer to the send was lost; the status webhook proved that it went out."""
    sent_on_waking: int = 0
    """By a replica that was stopped with the request on its way, and woke after its lease: no check can be nearer to
    the send. The others had taken over and waited for a proof, so it is out of order, never twice."""
    handed_over: int = 0
    """Sends without proof, in the hands of people."""
    dead: int = 0
    events: int = 0
    """For other systems, that reached the receiver."""
    event_repeats: int = 0
    webhook_to_send: list[float] = field(default_factory=list)

    def expect(self, good: bool, problem: str) -> None:
        if not good:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class Evidence:
    stored: Sequence[Any]
    replies: Sequence[Any]
    flagged: Mapping[str, str]
    """Why a person was called, by conversation."""
    sends: Sequence[JsonObject]

    @classmethod
    async def of(cls, world: ChaosWorld, run: str) -> Evidence:
        like = f"wamid.chaos-{run}-%"
        flagged = await world.rows("select id::text, needs_human_reason as why from conversations where needs_human")
        sends = await world.sandbox.record(kind="send")
        return cls(
            stored=await world.rows(
                "select wa_message_id as id, conversation_id::text as conversation from messages"
                " where direction = 'inbound' and wa_message_id like $1 order by seq",
                like,
            ),
            replies=await world.rows(
                "select reply_key as key, conversation_id::text as conversation, covers, fence, state, body, error"
                " from replies where reply_key like $1 order by created_at",
                like,
            ),
            flagged={row["id"]: row["why"] for row in flagged},
            sends=[send for send in sends if str(send["callback_data"]).startswith(f"wamid.chaos-{run}-")],
        )


async def judge(
    world: ChaosWorld,
    messages: Sequence[Message],
    *,
    run: str,
    accepted: dict[str, float] | None = None,
    dead: int = 0,
    frozen: Sequence[tuple[float, float]] = (),
) -> Verdict:
    """Every invariant that can be seen from outside (facts: queue, 1-6 and 9). `frozen`: from when to when (Unix
    seconds) a replica was stopped."""
    evidence = await Evidence.of(world, run)
    verdict = Verdict(messages=len(messages))
    _stored_once_in_order(verdict, messages, evidence)
    _answered_once(verdict, messages, evidence)
    _called_for_a_reason(verdict, evidence)
    _sent_once(verdict, evidence)
    _in_order(verdict, messages, evidence, frozen)
    _says_what_it_answers(verdict, messages, evidence)
    verdict.webhook_to_send = _delays(evidence, accepted or {})
    await _nothing_left(verdict, world, dead)
    return verdict


def _stored_once_in_order(verdict: Verdict, messages: Sequence[Message], evidence: Evidence) -> None:
    times = Counter(row["id"] for row in evidence.stored)
    missing = [message.id for message in messages if message.id not in times]
    verdict.lost += len(missing)
    verdict.expect(not missing, f"{len(missing)} messages were never stored, e.g. {missing[:3]}")
    repeated = [key for key, count in times.items() if count > 1]
    verdict.expect(not repeated, f"{len(repeated)} messages were stored more than once, e.g. {repeated[:3]}")
    verdict.expect(len(times) <= len(messages), f"{len(times) - len(messages)} messages too many were stored")
    places: dict[str, list[str]] = defaultdict(list)
    for row in evidence.stored:
        places[row["conversation"]].append(row["id"])
    for conversation, expected in _by_conversation(messages).items():
        rows = [ids for ids in places.values() if set(ids) & set(expected)]
        verdict.expect(len(rows) <= 1, f"conversation {conversation} was split over {len(rows)} rows")
        in_order = [key for ids in rows for key in ids]
        right = [key for key in expected if key in times]
        wrong = [f"{found} instead of {key}" for found, key in zip(in_order, right, strict=False) if found != key]
        verdict.expect(not wrong, f"conversation {conversation} was stored out of order: {wrong[:2]}")


def _answered_once(verdict: Verdict, messages: Sequence[Message], evidence: Evidence) -> None:
    covered: Counter[str] = Counter()
    for reply in evidence.replies:
        if reply["state"] == "sent":
            covered.update(reply["covers"])
        elif reply["state"] == "failed" and '"send_ambiguous"' in (reply["error"] or ""):
            covered.update(reply["covers"])
            verdict.handed_over += 1
            verdict.expect(reply["conversation"] in evidence.flagged, f"nobody was called for {reply['key']}")
        else:
            verdict.problems.append(f"reply {reply['key']} ended {reply['state']}: {reply['error']}")
    silent = [message.id for message in messages if not covered[message.id]]
    verdict.lost += len(silent)
    verdict.expect(not silent, f"{len(silent)} messages have no reply, e.g. {silent[:3]}")
    twice = [message.id for message in messages if covered[message.id] > 1]
    verdict.duplicated += len(twice)
    verdict.expect(not twice, f"{len(twice)} messages were answered more than once, e.g. {twice[:3]}")


def _called_for_a_reason(verdict: Verdict, evidence: Evidence) -> None:
    """A customer who got the model's answer, and nothing else, needs no person."""
    reasons = {
        reply["conversation"]
        for reply in evidence.replies
        if reply["state"] == "failed" or reply["body"] == FALLBACK_TEXT
    }
    answered = {row["conversation"] for row in evidence.stored} - reasons
    wrong = [why for conversation, why in evidence.flagged.items() if conversation in answered and why != "dead_letter"]
    verdict.expect(not wrong, f"people were called for {len(wrong)} customers who have their answer: {wrong[:3]}")


def _sent_once(verdict: Verdict, evidence: Evidence) -> None:
    """`processed` is what the customer saw, whatever we were told."""
    seen = Counter(send["callback_data"] for send in evidence.sends if send["processed"])
    again = {key: count for key, count in seen.items() if count > 1}
    verdict.replies = len(seen)
    verdict.duplicated += sum(again.values()) - len(again)
    verdict.expect(not again, f"{len(again)} replies reached the customer more than once, e.g. {list(again)[:3]}")
    claimed = {f"{reply['key']}#0" for reply in evidence.replies if reply["state"] == "sent"}
    verdict.expect(claimed <= seen.keys(), f"{len(claimed - seen.keys())} replies count as sent and never arrived")
    unknown = seen.keys() - claimed
    verdict.expect(not unknown, f"{len(unknown)} replies arrived and do not count as sent, e.g. {list(unknown)[:3]}")
    verdict.ambiguous_reconciled = sum(
        send["processed"] and send["state"] == "closed" and send["callback_data"] in claimed for send in evidence.sends
    )


def _in_order(
    verdict: Verdict, messages: Sequence[Message], evidence: Evidence, frozen: Sequence[tuple[float, float]]
) -> None:
    place = {message.id: (message.conversation, message.number) for message in messages}
    replies = {f"{reply['key']}#0": reply for reply in evidence.replies}
    last: dict[int, tuple[int, int]] = {}
    for send in evidence.sends:
        reply = replies.get(send["callback_data"])
        if reply is None or not send["processed"]:
            continue
        covers = [place[key] for key in reply["covers"] if key in place]
        if not covers:
            continue
        conversation = covers[0][0]
        verdict.expect(covers == sorted(covers), f"a reply of conversation {conversation} covers {covers}")
        number, fence = last.get(conversation, (-1, -1))
        claimed_at = reply["fence"] / 1_000_000  # a token starts at the time of its claim
        if reply["fence"] < fence and any(claimed_at < began and ended <= send["at"] for began, ended in frozen):
            verdict.sent_on_waking += 1
            continue
        verdict.expect(covers[0][1] > number, f"conversation {conversation} was answered out of order: {covers}")
        verdict.expect(reply["fence"] >= fence, f"conversation {conversation} was written with a falling fence")
        last[conversation] = (covers[-1][1], reply["fence"])


def _says_what_it_answers(verdict: Verdict, messages: Sequence[Message], evidence: Evidence) -> None:
    markers = {message.id: message.marker for message in messages}
    for reply in evidence.replies:
        if reply["body"] and reply["body"] != FALLBACK_TEXT:
            asked = {markers[key] for key in reply["covers"] if key in markers}
            missing = asked - set(MARKER.findall(reply["body"]))
            verdict.expect(not missing, f"the reply {reply['key']} does not answer {missing}")


def _delays(evidence: Evidence, accepted: dict[str, float]) -> list[float]:
    """From the 200 of the first message a reply answers to the arrival of the reply."""
    first = {f"{reply['key']}#0": reply["covers"][0] for reply in evidence.replies if reply["covers"]}
    pairs = [(accepted.get(first.get(send["callback_data"], "")), send) for send in evidence.sends]
    return [max(0.0, send["at"] - at) for at, send in pairs if at is not None and send["processed"]]


async def _nothing_left(verdict: Verdict, world: ChaosWorld, dead: int) -> None:
    keys: Counter[str] = Counter()
    async for key in world.redis.scan_iter(match=f"{PREFIX}*", count=10_000):
        keys[key.decode().removeprefix(PREFIX).split(":")[0]] += 1
    verdict.expect(not keys["m"], f"{keys['m']} mailboxes still hold events")
    left = [name for name in ("ready", "groups", "r", "lease", "heads", "own", "att", "first", "h") if keys[name]]
    verdict.expect(not left, f"the queue is empty, yet these keys are not: {left}")
    depth = int(await world.redis.get(f"{PREFIX}depth") or 0)
    verdict.expect(depth == 0, f"the queue's counter says {depth} events are pending")
    verdict.dead = int(await world.redis.xlen(f"{PREFIX}dlq"))
    if verdict.dead != dead:
        rows: Any = await world.redis.xrange(f"{PREFIX}dlq")
        letters = [
            f"{f[b'mailbox'].decode()} after {f[b'attempts'].decode()}: {f[b'reason'].decode()}" for _, f in rows
        ]
        verdict.problems.append(f"{verdict.dead} dead letters instead of {dead}: {letters[:10]}")


def _by_conversation(messages: Sequence[Message]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for message in messages:
        found[message.conversation].append(message.id)
    return found
