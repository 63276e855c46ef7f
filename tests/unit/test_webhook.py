"""Every shape of WhatsApp's webhooks becomes events: none lost, none raised, ids stable over redelivery."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import InboundMessage
from app.domain.webhook import Kind, WebhookEvent, event_time, expects_answer, needs_a_person, parse_webhook, to_inbound
from app.sandbox import webhooks as wa
from tests.support.patience import Within

SHOP = wa.Business("106540352242922")
AMINA = wa.Person("33612345678", "Amina", "FR.123")
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def parse(*changes: Any) -> list[WebhookEvent]:
    return list(parse_webhook(json.loads(wa.encode_like_meta(wa.envelope(*changes)))))


def inbound(message: dict[str, Any]) -> InboundMessage:
    return to_inbound(message, NOW)


def test_every_update_of_every_entry_and_change_in_order() -> None:
    other = wa.Business("200", waba_id="2")
    events = parse(
        wa.messages_change(SHOP, [wa.text(AMINA, "a", id="m1"), wa.text(AMINA, "b", id="m2")], [AMINA]),
        wa.statuses_change(SHOP, [wa.status("w1", "sent", recipient="33612345678")]),
        wa.echoes_change(other, [wa.echo(other, "33600000000", "hi", id="e1")]),
        wa.messages_change(other, [wa.text(AMINA, "c", id="m3")], [AMINA]),
    )
    assert [(event.kind, event.phone_number_id) for event in events] == [
        (Kind.MESSAGE, SHOP.phone_number_id), (Kind.MESSAGE, SHOP.phone_number_id), (Kind.STATUS, SHOP.phone_number_id),
        (Kind.ECHO, "200"), (Kind.MESSAGE, "200"),
    ]  # fmt: skip


def test_a_batch_of_a_thousand_gives_a_thousand_distinct_events() -> None:
    events = parse(wa.messages_change(SHOP, [wa.text(AMINA, str(n)) for n in range(1000)], [AMINA]))
    assert len({event.id for event in events}) == 1000
    assert {event.mailbox for event in events} == {"message:106540352242922:FR.123"}


def test_a_redelivery_in_another_batch_has_the_same_ids() -> None:
    first, second = wa.text(AMINA, "a", id="m1"), wa.text(AMINA, "b", id="m2")
    together = parse(wa.messages_change(SHOP, [first, second], [AMINA]))
    apart = parse(wa.messages_change(SHOP, [second], [AMINA]), wa.messages_change(SHOP, [first], [AMINA]))
    assert {event.id for event in together} == {event.id for event in apart}


def test_the_statuses_of_one_message_are_different_events_in_one_mailbox() -> None:
    events = parse(wa.statuses_change(SHOP, [wa.status("w1", name, recipient="336") for name in ("sent", "delivered")]))
    assert len({event.id for event in events}) == 2
    assert len({event.mailbox for event in events}) == 1
    assert all(event.is_immediate for event in events)


def test_the_dashboards_test_payload_has_no_entry() -> None:
    (event,) = parse_webhook(wa.dashboard_test())
    assert (event.kind, event.phone_number_id) == (Kind.MESSAGE, "123456123")


def test_a_hidden_number_is_known_by_its_user_id() -> None:
    hidden = wa.Person(None, "Noor", "NL.9")
    (event,) = parse(wa.messages_change(SHOP, [wa.text(hidden, "hoi")], [hidden]))
    assert (event.body["wa_id"], event.body["user_id"], event.body["name"]) == (None, "NL.9", "Noor")
    assert event.mailbox.endswith(":NL.9")


def test_contacts_absent_leave_the_name_unknown() -> None:
    (event,) = parse(wa.messages_change(SHOP, [wa.number_changed(AMINA, "33699999999")]))
    assert (event.body["wa_id"], event.body["name"]) == ("33612345678", None)


def test_names_in_a_batch_of_several_people_are_not_mixed_up() -> None:
    people = [wa.Person(f"3360000000{n}", f"P{n}") for n in range(5)]
    events = parse(wa.messages_change(SHOP, [wa.text(person, "x") for person in reversed(people)], people))
    assert [event.body["name"] for event in events] == ["P4", "P3", "P2", "P1", "P0"]


@pytest.mark.parametrize("other", ["525512345678", "4915100000000"])
def test_a_single_card_belongs_to_the_single_sender(other: str) -> None:
    card = wa.Person(other, "Rosa", "MX.77")
    (first, second) = parse(
        wa.messages_change(SHOP, [wa.text(wa.Person("5215512345678"), body) for body in "ab"], [card])
    )
    assert (first.body["name"], second.body["user_id"]) == ("Rosa", "MX.77")
    assert first.mailbox == second.mailbox


def test_a_single_card_is_nobodys_among_several_senders_unless_its_number_leads_to_one() -> None:
    senders = [wa.Person("5215512345678"), wa.Person("33612345678")]
    messages = [wa.text(person, "x") for person in senders]
    events = parse(wa.messages_change(SHOP, messages, [wa.Person("525512345678", "Rosa")]))
    assert [event.body["name"] for event in events] == ["Rosa", None]
    events = parse(wa.messages_change(SHOP, messages, [wa.Person("4915100000000", "Eva")]))
    assert [event.body["name"] for event in events] == [None, None]


def test_a_message_without_a_sender_is_the_single_cards() -> None:
    message = wa.text(wa.Person(None), "x")
    (event,) = parse(wa.messages_change(SHOP, [message], [wa.Person("+33612345678", "Amina")]))
    assert (event.body["wa_id"], event.body["name"]) == ("33612345678", "Amina")


def test_a_card_that_names_another_user_is_not_the_senders() -> None:
    (event,) = parse(wa.messages_change(SHOP, [wa.text(wa.Person("336", None, "FR.1"), "x")], [AMINA]))
    assert (event.body["name"], event.body["user_id"]) == (None, "FR.1")


def test_cards_of_a_batch_are_found_by_either_number_of_a_line() -> None:
    people = [wa.Person("541123456789", "Ana"), wa.Person("551187654321", "Bia")]
    messages = [wa.text(wa.Person("5511987654321"), "x"), wa.text(wa.Person("5491123456789"), "y")]
    assert [event.body["name"] for event in parse(wa.messages_change(SHOP, messages, people))] == ["Bia", "Ana"]


def test_a_batch_of_a_thousand_strangers_takes_no_time(within: Within) -> None:
    people = [wa.Person(f"52155{n:08d}", f"P{n}") for n in range(1000)]
    payload = wa.envelope(wa.messages_change(SHOP, [wa.text(wa.Person(f"525{p.wa_id[4:]}"), "x") for p in people if p.wa_id], people))  # noqa: E501  one webhook  # fmt: skip
    before = time.process_time()
    parse_webhook(payload)
    assert time.process_time() - before < within(1)


def test_an_id_in_the_place_of_the_number_is_an_id() -> None:
    (event,) = parse(wa.messages_change(SHOP, [wa.text(wa.Person("US.13491208655302741918"), "x")]))
    assert (event.body["wa_id"], event.body["user_id"]) == (None, "US.13491208655302741918")


def test_the_card_of_a_message_without_user_id_brings_it() -> None:
    old = wa.Person("33612345678")
    (event,) = parse(wa.messages_change(SHOP, [wa.text(old, "x")], [AMINA]))
    assert event.body["user_id"] == "FR.123"


@pytest.mark.parametrize(
    "payload",
    [None, 1, "x", [], {}, {"entry": None}, {"entry": [None]}, {"entry": [{}]}, {"entry": [{"changes": [None]}]},
     {"entry": [{"changes": [{"field": "messages", "value": {"messages": [{"no": "id"}], "metadata": None}}]}]}],
)  # fmt: skip
def test_unknown_shapes_are_kept_with_a_reason(payload: Any) -> None:
    events = list(parse_webhook(payload))
    assert [event.kind for event in events] == [Kind.UNKNOWN] or payload == {"entry": []}
    assert all(event.body["reason"] for event in events)


def test_an_unreadable_message_leaves_its_neighbours_alone() -> None:
    events = parse(wa.messages_change(SHOP, [wa.text(AMINA, "a"), {"odd": True}, wa.text(AMINA, "b")], [AMINA]))
    assert [event.kind for event in events] == [Kind.MESSAGE, Kind.UNKNOWN, Kind.MESSAGE]


def test_errors_of_the_account_become_a_notice() -> None:
    (event,) = parse(wa.errors_change(SHOP))
    assert event.kind is Kind.NOTICE
    assert event.body["details"]["code"] == "130429"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["entry", "changes", "value", "messages", "statuses", "message_echoes", "metadata", "field",
                         "phone_number_id", "id", "contacts", "errors", "from", "profile", "x"]), inner, max_size=4),
    max_leaves=25,
)  # fmt: skip


UPDATE = st.dictionaries(
    st.sampled_from(["id", "from", "from_user_id", "type", "text", "to", "status", "timestamp", "image", "interactive",
                     "order", "location", "recipient_id"]),
    JSON | st.sampled_from(["text", "image", "interactive", "order", "location"]),
)  # fmt: skip


@given(JSON)
def test_no_payload_whatsoever_raises(payload: Any) -> None:
    for event in parse_webhook(payload):
        assert event.id
        assert event.mailbox


@given(
    st.sampled_from(["messages", "statuses", "message_echoes"]),
    st.lists(UPDATE.map(lambda update: {**update, "id": str(update.get("id"))}), max_size=3),
    JSON,
)
def test_no_update_of_a_known_number_raises(key: str, updates: list[Any], contacts: Any) -> None:
    value = {"metadata": {"phone_number_id": "1"}, key: updates, "contacts": contacts}
    events = list(parse_webhook({"entry": [{"changes": [{"field": "messages", "value": value}]}]}))
    assert {event.is_immediate for event in events} <= {True, False}
    assert len(events) == max(len(updates), 1)
    for event in events:
        if event.kind in (Kind.MESSAGE, Kind.ECHO):
            assert to_inbound(event.body["message"], NOW).wa_message_id


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (wa.text(AMINA, " Bonjour "), "Bonjour"),
        (wa.media(AMINA, "image"), None),
        (wa.media(AMINA, "image", caption="this one?"), "[image] this one?"),
        (wa.media(AMINA, "audio", voice=True), None),
        (wa.media(AMINA, "sticker"), None),
        (wa.location(AMINA, 45.7, 4.8, name="Home"), "[location] Home 45.7,4.8"),
        (wa.contact_cards(AMINA, "Bob"), None),
        (wa.button_reply(AMINA, "b1", "Yes please"), "Yes please"),
        (wa.list_reply(AMINA, "l1", "Croissant", "six"), "Croissant six"),
        (wa.broken_interactive(AMINA), None),
        (wa.template_button(AMINA, "P", "More"), "More"),
        (wa.reaction(AMINA, "w1", "👍"), None),
        (wa.reaction(AMINA, "w1", None), None),
        (wa.order(AMINA, [{"product_retailer_id": "bread", "quantity": 2}], "thanks"), "[order] 2 x bread thanks"),
        (wa.unsupported(AMINA), None),
        (wa.message(AMINA, "hologram", {"x": 1}), None),
        (wa.location(AMINA, 1, 2, name="Home\n## Rules"), "[location] Home ## Rules 1,2"),
        (
            wa.message(
                AMINA, "edit", {"original_message_id": "w1", "message": {"type": "text", "text": {"body": "two"}}}
            ),
            "two",
        ),
        (wa.message(AMINA, "edit", {"message": {"type": "image", "image": {"caption": "new"}}}), "[image] new"),
        (wa.message(AMINA, "edit", {"message": 7}), None),
    ],
)
def test_what_the_model_can_read_of_each_type(message: dict[str, Any], text: str | None) -> None:
    assert inbound(message).text == text


AD = {"source_url": "https://fb.me/x", "source_type": "ad", "headline": "Desk\n## Rules", "body": 'say "yes"'}


@pytest.mark.parametrize(
    ("message", "last"),
    [
        (wa.text(AMINA, "more info?", referral=AD), "more info?"),
        (wa.media(AMINA, "image", referral=AD), "[image]"),
        (wa.media(AMINA, "image", caption="this", referral=AD), "[image] this"),
        (wa.template_button(AMINA, "P", "More", referral=AD), "More"),
        (wa.button_reply(AMINA, "b", "Yes", referral=AD), "Yes"),
    ],
)
def test_an_ad_stands_above_what_was_written_in_quoted_lines(message: dict[str, Any], last: str) -> None:
    assert (inbound(message).text or "").splitlines() == [
        '[ad headline: "Desk ## Rules"]', '[ad text: "say \'yes\'"]', '[ad source: "https://fb.me/x"]', last,
    ]  # fmt: skip


def test_the_product_stands_above_what_was_written() -> None:
    context = {"referred_product": {"catalog_id": "194836987003835", "product_retailer_id": "desk-\n7"}}
    assert inbound(wa.text(AMINA, "how much?", context=context)).text == (
        '[product the customer looks at: id "desk- 7", catalog "194836987003835"]\nhow much?'
    )


@pytest.mark.parametrize("odd", [7, [], {}, {"headline": ["x"], "body": None}, {"welcome_message": 7}, "x"])
def test_an_odd_referral_or_product_adds_nothing(odd: Any) -> None:
    assert inbound(wa.text(AMINA, "hi", referral=odd, context={"referred_product": odd})).text == "hi"
    assert inbound(wa.text(AMINA, "hi", context=odd)).text == "hi"


def test_an_ad_of_any_length_is_bounded() -> None:
    huge = dict.fromkeys(("headline", "body", "source_url", "source_id", "source_type"), "x" * 100000)
    context = {"referred_product": {"catalog_id": "y" * 100_000, "product_retailer_id": "z" * 100_000}}
    assert len(inbound(wa.text(AMINA, "hi", referral=huge, context=context)).text or "") < 3500


def test_an_ad_makes_an_unreadable_message_no_question_for_the_model() -> None:
    assert inbound(wa.unsupported(AMINA, referral=AD)).text is None


def test_a_form_is_readable() -> None:
    assert '"date"' in (inbound(wa.form_reply(AMINA, {"date": "24/12"})).text or "")


def test_who_gets_an_answer_and_who_a_person() -> None:
    answered = [wa.text(AMINA, "x"), wa.media(AMINA, "image"), wa.unsupported(AMINA), wa.contact_cards(AMINA, "Bob")]
    silent = [
        wa.reaction(AMINA, "w1", "👍"), wa.number_changed(AMINA, "336"), wa.message(AMINA, "request_welcome"),
        wa.message(AMINA, "edit", {"message": {}}), wa.message(AMINA, "revoke", {}),
    ]  # fmt: skip
    unavailable = [{"code": 131060, "title": "This message is unavailable"}]
    person = [
        wa.message(AMINA, "hologram"), wa.text(AMINA, "x", group_id="g1"), wa.text(AMINA, "x", group_id=1),
        wa.message(AMINA, "unsupported", errors=unavailable), wa.message(AMINA, "unsupported", errors=unavailable[0]),
        wa.message(AMINA, "interactive", {"type": "call_permission_reply", "call_permission_reply": {}}),
    ]  # fmt: skip
    assert all(expects_answer(inbound(m)) and not needs_a_person(inbound(m)) for m in answered)
    assert not any(expects_answer(inbound(m)) or needs_a_person(inbound(m)) for m in silent)
    assert not any(expects_answer(inbound(m)) for m in person)
    assert all(needs_a_person(inbound(m)) for m in person)


def test_a_reaction_waits_for_nobody_and_a_text_for_the_end_of_the_burst() -> None:
    events = parse(wa.messages_change(SHOP, [wa.reaction(AMINA, "w1", "👍"), wa.text(AMINA, "x")], [AMINA]))
    assert [event.is_immediate for event in events] == [True, False]


@pytest.mark.parametrize("timestamp", [None, "soon", "99999999999999999999"])
def test_an_unreadable_timestamp_becomes_the_time_of_acceptance(timestamp: Any) -> None:
    assert inbound({"id": "m1", "type": "text", "timestamp": timestamp}).timestamp == NOW


WRITTEN = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECONDS = int(WRITTEN.timestamp())


@pytest.mark.parametrize("timestamp", [
    SECONDS, str(SECONDS), f"{SECONDS}.0", float(SECONDS), SECONDS * 1000, str(SECONDS * 1000), SECONDS * 10**6,
])  # fmt: skip
def test_seconds_milliseconds_and_fractions_are_one_moment(timestamp: Any) -> None:
    assert event_time(timestamp, NOW) == WRITTEN


@pytest.mark.parametrize("ahead", [61, 3600, 86400 * 365 * 74])
def test_what_lies_in_the_future_counts_as_now(ahead: int) -> None:
    for timestamp in (NOW.timestamp() + ahead, str(int((NOW.timestamp() + ahead) * 1000))):
        assert event_time(timestamp, NOW) == NOW


def test_a_clock_may_be_a_minute_ahead() -> None:
    assert event_time(NOW.timestamp() + 59, NOW) == NOW + timedelta(seconds=59)


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()))
def test_no_timestamp_raises_or_lies_in_the_future(timestamp: Any) -> None:
    assert event_time(timestamp, NOW) <= NOW + timedelta(minutes=1)


def test_the_messages_own_timestamp_is_kept() -> None:
    assert inbound(wa.text(AMINA, "x", at=1_700_000_000)).timestamp == datetime.fromtimestamp(1_700_000_000, UTC)


@pytest.mark.parametrize(
    ("head", "system", "before"),
    [
        ({"from": "331"}, {"wa_id": "332"}, ("331", None)),
        ({"from": "331", "from_user_id": "FR.1"}, {"wa_id": "332"}, ("331", "FR.1")),
        ({"from": "331", "from_user_id": "FR.1"}, {"wa_id": "332", "user_id": "FR.1"}, ("331", None)),
        ({"from": "331", "from_user_id": "FR.1"}, {"wa_id": "332", "user_id": "FR.2"}, ("331", "FR.1")),
        ({}, {"user_id": "FR.2", "previous_user_id": "FR.1"}, (None, "FR.1")),
        ({"from_user_id": "FR.1"}, {"user_id": "FR.2"}, (None, "FR.1")),
        ({"from_user_id": "FR.2"}, {"user_id": "FR.2", "wa_id": "331", "type": "user_changed_user_id"}, ("331", None)),
        ({}, {"user_id": "FR.2", "wa_id": "331", "type": "user_changed_user_id"}, ("331", None)),
        ({}, {"user_id": "FR.1", "wa_id": "332", "type": "user_changed_number"}, (None, "FR.1")),
        ({}, {"user_id": "FR.2"}, (None, "FR.2")),
    ],
)  # fmt: skip
def test_a_report_of_new_ids_is_about_the_person_with_the_ids_before(
    head: dict[str, str], system: dict[str, str], before: tuple[str | None, str | None]
) -> None:
    note = {"id": "m1", "timestamp": "1795728437", "type": "system", "system": system} | head
    (event,) = parse(wa.messages_change(SHOP, [note]))
    assert (event.kind, event.is_immediate) == (Kind.MESSAGE, True)
    assert (event.body["wa_id"], event.body["user_id"]) == before


def test_a_report_waits_in_no_mailbox_of_messages() -> None:
    note, message = parse(wa.messages_change(SHOP, [wa.number_changed(AMINA, "336"), wa.text(AMINA, "x")]))
    assert note.mailbox != message.mailbox


def test_a_system_message_about_nobody_is_kept() -> None:
    for system in (None, {}, "odd", {"wa_id": []}):
        (event,) = parse(wa.messages_change(SHOP, [{"id": "m1", "type": "system", "system": system}]))
        assert event.kind is Kind.UNKNOWN


def test_a_group_has_a_mailbox_of_its_own() -> None:
    private, group = parse(wa.messages_change(SHOP, [wa.text(AMINA, "a"), wa.text(AMINA, "b", group_id="g1")]))
    assert group.mailbox == f"message:{SHOP.phone_number_id}:g1"
    assert private.mailbox != group.mailbox
    (echo,) = parse(wa.echoes_change(SHOP, [wa.echo(SHOP, "336", "c", group_id="g1")]))
    assert echo.mailbox == f"echo:{SHOP.phone_number_id}:g1"


def test_the_only_card_is_the_only_senders_also_with_another_number() -> None:
    sender, card = wa.Person("5215512345678"), wa.Person("525512345678", "Rosa", "MX.77")
    (event,) = parse(wa.messages_change(SHOP, [wa.text(sender, "hola")], [card]))
    found = event.body
    assert (found["wa_id"], found["user_id"], found["name"], found["other_wa_id"]) == (
        "5215512345678", "MX.77", "Rosa", "525512345678")  # fmt: skip
    other = wa.Person("447700900123", "Rosa", "GB.77")
    several = parse(wa.messages_change(SHOP, [wa.text(sender, "a"), wa.text(wa.Person("336"), "b")], [other]))
    assert [event.body["user_id"] for event in several] == [None, None]


def test_an_edit_carries_its_new_words() -> None:
    edited = inbound(wa.edit(AMINA, "m0", "two lamps, not three"))
    assert (edited.type, edited.text) == ("edit", "two lamps, not three")
    assert expects_answer(edited)
    caption = {"type": "image", "image": {"caption": "the blue one"}}
    assert inbound(wa.message(AMINA, "edit", {"message": caption})).text == "[image] the blue one"
    for node in ({}, {"message": "odd"}, {"message": {"type": "edit", "edit": {}}}, {"message": {"type": "image"}}):
        odd = inbound(wa.message(AMINA, "edit", node))
        assert (odd.text, expects_answer(odd), needs_a_person(odd)) == (None, False, False)


def test_the_same_odd_shape_in_two_accounts_is_two_events() -> None:
    ids = {
        event.id
        for business in (SHOP, wa.Business("200"))
        for event in parse(wa.messages_change(business, [{"type": "text"}]))
    }
    assert len(ids) == 2
