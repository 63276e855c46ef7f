"""What three replicas write at LOG_LEVEL=DEBUG: enough to follow a message, and nothing that is nobody's business."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import Any

from app.core.logging import trace_of
from app.localhost.fleet import Served
from app.sandbox import webhooks as wa
from app.sandbox.customers import Customer
from tests.support.world import World

SECRET_WORD = "kumquat"


def _written(replicas: list[Served], before: dict[str, int]) -> str:
    """Whole lines: the last one of a replica may be half written."""
    texts = (replica.log_file.read_text(errors="replace")[before[replica.name] :] for replica in replicas)
    return "".join(text[: text.rfind("\n") + 1] for text in texts)


def _marks(replicas: list[Served]) -> dict[str, int]:
    return {replica.name: len(replica.log_file.read_text(errors="replace")) for replica in replicas}


def _wamid_like_metas(phone: str) -> str:
    """Meta's own ids carry the phone number in base64."""
    return "wamid." + base64.b64encode(b"\x1c\x15\x0b" + phone.encode() + b"\x15\x02\x00\x12\x18\x14\x33").decode()


async def test_no_token_number_or_text_is_written_at_any_level_whatever_goes_wrong(world: World) -> None:
    replicas = world.fleet.replicas
    before = _marks(replicas)
    customer = world.customer(f"{SECRET_WORD.title()} Smith")
    phone = customer.person.wa_id
    wamid = _wamid_like_metas(phone)
    message = wa.text(customer.person, f"my {SECRET_WORD} is late", id=wamid)
    await world.sandbox.add_fault("gemini", gemini="unavailable", count=2)
    sent = await world.post(wa.envelope(wa.messages_change(world.business, [message], [customer.person])))
    assert sent.status_code == 200
    await world.sandbox.wait(kind="send", to=phone)
    # A refused signature, a body that is no JSON, an update of no known shape, a request nobody is allowed to make.
    await world.post(f'{{"{SECRET_WORD}": "{phone}"}}'.encode(), **{"X-Hub-Signature-256": "sha256=" + "0" * 64})
    await world.post(f"{SECRET_WORD} {phone}".encode())
    await world.post(wa.envelope((world.business, {"field": "messages", "value": {"messages": [{"from": phone}]}})))
    await world.http.get(f"{replicas[0].url}/conversations", headers={"Authorization": "Bearer not-the-operators-key"})
    await world.until_idle()

    text = _written(replicas, before)
    keys = world.fleet.keys
    for secret in (keys.admin, keys.app_secret, keys.encryption, keys.verify_token, "a-token-of-the-sandbox"):
        assert secret not in text
    assert "not-the-operators-key" not in text
    assert SECRET_WORD not in text.lower()
    assert phone not in text
    assert wamid not in text
    assert not re.search(r"redis://[^\s\"]*:[^\s\"]+@|postgresql://[^\s\"]*:[^\s\"]+@", text)
    for blob in re.findall(r"[A-Za-z0-9+/=]{24,}", text):
        assert phone.encode() not in base64.b64decode(blob + "=" * (-len(blob) % 4), validate=False)


PLANTED = f"{SECRET_WORD.title()} Smith, 2125550187"
"""What a customer, Meta, Gemini and the database say below: a name, and a number of ten digits."""
NOTICE = {
    PLANTED: PLANTED, "event": PLANTED, "decision": PLANTED, "reason": PLANTED, "message_template_name": PLANTED,
    "requested_verified_name": PLANTED, "other_info": {"title": PLANTED, "description": PLANTED},
}  # fmt: skip
"""Under the names that Meta uses, too: what it reports of a template or a display name quotes the business."""
VIOLATES = "alter table {} add constraint planted check ({} not like '%violates%') not valid"


def _says(code: int, **more: Any) -> str:
    return json.dumps({"error": {"code": code, "message": f"not for {PLANTED}", **more}})


async def test_what_others_say_about_a_failure_is_written_nowhere(world: World) -> None:
    """Every answer and every DETAIL below quotes a customer, as those of Meta, Gemini and PostgreSQL do."""
    replicas = world.fleet.replicas
    before = _marks(replicas)
    customer = world.customer(PLANTED)
    phone = customer.person.wa_id
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"description": PLANTED}]}]
    refused = _says(400, status="INVALID_ARGUMENT", details=details)
    await world.sandbox.add_fault("gemini", http_status=400, body=refused, count=1)
    await customer.say(f"refused by the model, {PLANTED}")
    await world.sandbox.wait(kind="send", to=phone)
    await world.sandbox.add_fault(
        "whatsapp", http_status=400, body=_says(131026, error_data={"details": PLANTED}), count=1
    )
    await customer.say(f"refused by WhatsApp, {PLANTED}")
    await world.until_idle()
    failed = {"id": "wamid.none", "status": "failed", "recipient_id": phone, "timestamp": "1"}
    failed["errors"] = [{"code": 131049, "title": PLANTED, "message": PLANTED, "error_data": {"details": PLANTED}}]
    odd = {"id": _wamid_like_metas(phone), "type": PLANTED, "from": phone, "timestamp": "1"}
    for value in (
        {"statuses": [failed]},
        {"messages": [odd]},
        {"messages": [{"from": PLANTED}]},
        {"errors": failed["errors"]},
    ):
        body = {
            "field": "messages",
            "value": {**value, "metadata": {"phone_number_id": world.business.phone_number_id}},
        }
        assert (await world.post(wa.envelope((world.business, body)))).status_code == 200
    for field in (PLANTED, "account_update", "message_template_status_update", "phone_number_name_update"):
        assert (await world.post(wa.envelope((world.business, {"field": field, "value": NOTICE})))).status_code == 200
    answers = [await _while_the_database_refuses(world, customer)]
    await world.until_idle()

    operator = {"Authorization": f"Bearer {world.fleet.keys.admin}"}
    paths = ("/metrics", "/health", "/admin/dead-letters", "/admin/breakers", "/admin/queue")
    shown = [await world.http.get(each.url + path, headers=operator) for each in replicas for path in paths]
    answers += [response.text for response in shown]
    errors = await world.rows(
        "select error::text from replies where error is not null union all"
        " select error::text from messages where error is not null"
    )
    text = _written(replicas, before)
    assert "handling failed" in text
    assert "unhandled error" in text
    for where in (text, *answers, *(row["error"] for row in errors)):
        assert SECRET_WORD not in where.lower()
        assert "2125550187" not in where
        assert phone not in where
    assert '"dropped"' not in text, "a field of ours is missing in core/log_fields.py"


async def _while_the_database_refuses(world: World, customer: Customer) -> str:
    """The body of an answer to a request that ran into it; a customer's message did too, and is answered afterwards."""
    await world.execute(VIOLATES.format("messages", "text"))
    await world.execute(VIOLATES.format("whatsapp_accounts", "name"))
    try:
        seen = _marks(world.fleet.replicas)
        await customer.say(f"this violates, {PLANTED}")
        async with asyncio.timeout(20):
            while "handling failed" not in _written(world.fleet.replicas, seen):
                await asyncio.sleep(0.02)
        path = f"{world.fleet.replicas[0].url}/accounts/{world.account['id']}"
        operator = {"Authorization": f"Bearer {world.fleet.keys.admin}"}
        answer = await world.http.patch(path, json={"name": f"violates, {PLANTED}"}, headers=operator)
        assert answer.status_code == 500
        return answer.text
    finally:
        await world.execute("alter table messages drop constraint planted")
        await world.execute("alter table whatsapp_accounts drop constraint planted")


async def test_a_message_is_followed_from_the_webhook_to_the_send_by_one_name(world: World) -> None:
    replicas = world.fleet.replicas
    before = _marks(replicas)
    customer = world.customer()
    message = wa.text(customer.person, "Where are you?")
    await world.post(wa.envelope(wa.messages_change(world.business, [message], [customer.person])), replica=1)
    await world.sandbox.wait(kind="send", to=customer.person.wa_id)
    await world.until_idle()
    name = trace_of(message["id"])

    def told(event: str) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = [json.loads(line) for line in _written(replicas, before).splitlines()]
        return [line for line in lines if line["event"] == event and name in line.get("messages", ())]

    async with asyncio.timeout(10):  # the line is written when the queue has been told
        while not (handled := told("handled")):
            await asyncio.sleep(0.02)
    webhook = told("webhook")
    assert len(webhook) == 1
    assert webhook[0]["request_id"]
    assert webhook[0]["status"] == 200
    assert [line["outcome"] for line in handled] == ["replied"]
    assert {"ms", "stages_ms", "attempt"} <= set(handled[0])
