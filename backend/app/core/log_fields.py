"""What may be on a log line: a list of fields, each with the form that its value must have.

    admitted({"conversation": "6f0c…", "colour": "red"})     # {"conversation": "6f0c…", "dropped": ["colour"]}
    allow_log_fields(region=Form.CODE)                       # for a deployment whose own filter adds a field

The formatter drops what is not on the list, and replaces a value of another form by "[dropped]": a text of a customer,
of Meta, of Gemini or of the database that gets into a field by mistake is not written. `tests/unit/test_log_fields.py`
reads every call in the source, so that nothing of ours is dropped unseen. A new field needs a line here.

    NUMBER   numbers, booleans, None
    CODE     an id, a code, a name: one word without white space, at most 160 characters
    WORDS    a sentence that we wrote ourselves, perhaps with codes in it
    SHAPE    names of fields and types (`tolerant_json.sketch`), or a map of a few codes and numbers
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class Form(StrEnum):
    NUMBER = "number"
    CODE = "code"
    WORDS = "words"
    SHAPE = "shape"


def _all(form: Form, names: str) -> dict[str, Form]:
    return dict.fromkeys(names.split(), form)


_FIELDS: dict[str, Form] = {
    **_all(
        Form.NUMBER,
        """accepted attempt attempts callers calls claims count days dead_letters deaths descriptors duplicates epoch
        events exit_code failed failed_rounds failures gaps held ids lost lost_seconds mailboxes messages_deleted
        minutes ms open_seconds pause_seconds position reclaimed refused replicas replies seconds shard signal
        silent_seconds slow status token usual_messages voters wanted warm wa_code""",
    ),
    **_all(
        Form.CODE,
        """account limit accounts api_key app_id before duty letter now channel code conversation dependency endpoint
        error event field fingerprint finish_reason invitation kid kind life loop messages method model name
        notice_event notice_field notice_phone_number_id notice_waba_id outcome phone_number_id replica reply request_id
        route scope state""",
    ),
    **_all(Form.WORDS, "migrations reason stack who why"),
    **_all(Form.SHAPE, "details shape stages_ms"),
}
"""`event` is Meta's id of one as a digest (services/dead_letters.py), never the raw one."""

DROPPED = "[dropped]"
CODE_CHARACTERS = 160
WORDS_CHARACTERS = 300
STACK_CHARACTERS = 8000
MAX_ITEMS = 20
_CODE = re.compile(r"[\w.:,/{}\[\]#<>@+-]*")


def allow_log_fields(**fields: Form) -> None:
    """For a program around Chorus whose log filters add fields of their own."""
    _FIELDS.update(fields)


def admitted(fields: Mapping[str, object]) -> dict[str, object]:
    """`fields` as they may be written; the names of those that are not on the list are in `dropped`."""
    kept: dict[str, object] = {}
    dropped: list[str] = []
    for name, value in fields.items():
        form = _FIELDS.get(name)
        if form is None:
            dropped.append(name if _CODE.fullmatch(name) else DROPPED)
        elif value is None or type(value) in _NUMBERS:
            kept[name] = value
        else:
            kept[name] = _fit(value, form, name)
    if dropped:
        kept["dropped"] = sorted(dropped)[:MAX_ITEMS]
    return kept


_NUMBERS = frozenset({int, float, bool})


def _fit(value: object, form: Form, name: str) -> object:
    match value:
        case int() | float() | None | UUID() | datetime():
            return value
        case str():
            return _fit_text(value, form, name)
        case list() | tuple():
            return [_fit(item, form, name) for item in value[:MAX_ITEMS]] if form is not Form.NUMBER else DROPPED
        case dict() if form is Form.SHAPE:
            return {key: _fit(item, Form.CODE, name) for key, item in list(value.items())[:MAX_ITEMS] if _is_code(key)}
    return DROPPED


def _fit_text(text: str, form: Form, name: str) -> str:
    if form is Form.NUMBER:
        return DROPPED
    if form is Form.CODE:
        return code_or_dropped(text)
    return text[: STACK_CHARACTERS if name == "stack" else WORDS_CHARACTERS]


def code_or_dropped(text: str) -> str:
    """`text` as a plain `str` if it is a code (`Form.CODE`), else "[dropped]"."""
    return str(text) if _is_code(text) else DROPPED


def _is_code(value: object) -> bool:
    return isinstance(value, str) and len(value) <= CODE_CHARACTERS and _CODE.fullmatch(value) is not None
