"""What Meta reports about an account, its number and its templates: webhook fields that are about no customer.

Source of fields and events: WhatsApp Business Platform webhook reference (account_update, account_alerts,
account_review_update, phone_number_quality_update, phone_number_name_update, business_capability_update,
business_status_update, security, message_template_*, template_category_update) and `errors` of `messages`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.domain.foreign_text import one_line
from app.domain.models import BlockReason, Json
from app.domain.phone import phone_digits

INFO, WARNING, ERROR = logging.INFO, logging.WARNING, logging.ERROR

MAX_DETAILS = 20
DETAIL_CHARACTERS = 200
DETAIL_DEPTH = 4
OTHER = "other"

_Words = Mapping[str, tuple[int, str]]

_ACCOUNT_UPDATE: _Words = {
    "DISABLED_UPDATE": (ERROR, "the WhatsApp Business account is disabled: nothing can be sent"),
    "DISABLED_UPDATE:SCHEDULE_FOR_DISABLE": (ERROR, "the WhatsApp Business account will be disabled"),
    "DISABLED_UPDATE:REINSTATE": (INFO, "the WhatsApp Business account is enabled again"),
    "ACCOUNT_DELETED": (ERROR, "the WhatsApp Business account was deleted"),
    "ACCOUNT_RESTRICTION": (ERROR, "the WhatsApp Business account may not send as before"),
    "ACCOUNT_OFFBOARDED": (ERROR, "the number left the Cloud API"),
    "ACCOUNT_RECONNECTED": (INFO, "the number is back on the Cloud API"),
    "ACCOUNT_VIOLATION": (WARNING, "the WhatsApp Business account broke a policy of Meta"),
    "PARTNER_REMOVED": (ERROR, "the business took the account away from this app's business"),
    "PARTNER_APP_UNINSTALLED": (ERROR, "the business took its permissions away from this app"),
    "PARTNER_ADDED": (INFO, "the account was shared with this app's business"),
    "PARTNER_APP_INSTALLED": (INFO, "the business gave this app permissions"),
    "PARTNER_CLIENT_CERTIFICATION_STATUS_UPDATE": (INFO, "the verification of the business moved on"),
    "VERIFIED_ACCOUNT": (INFO, "the account is verified"),
    "*": (INFO, "the WhatsApp Business account changed"),
}
_ACCOUNT_ALERTS: _Words = {
    "CRITICAL": (ERROR, "Meta warns about the account"),
    "WARNING": (WARNING, "Meta warns about the account"),
    "INFORMATIONAL": (INFO, "Meta informs about the account"),
    "*": (WARNING, "Meta warns about the account"),
}
_REVIEW: _Words = {
    "APPROVED": (INFO, "the account was approved"),
    "REJECTED": (ERROR, "the account was rejected in Meta's review"),
    "PENDING": (INFO, "the account is being reviewed"),
    "DEFERRED": (WARNING, "Meta put off the review of the account"),
    "*": (WARNING, "the review of the account moved on"),
}
_QUALITY: _Words = {
    "FLAGGED": (WARNING, "the number's quality is low: Meta may lower its limits"),
    "UNFLAGGED": (INFO, "the number's quality is good again"),
    "DOWNGRADE": (WARNING, "the number may write to fewer customers a day"),
    "UPGRADE": (INFO, "the number may write to more customers a day"),
    "ONBOARDING": (INFO, "the number has its first limit"),
    "THROUGHPUT_UPGRADE": (INFO, "the number may send faster"),
    "*": (INFO, "the number's quality or limit changed"),
}
_NUMBER_NAME: _Words = {
    "APPROVED": (INFO, "the number's display name was approved"),
    "REJECTED": (WARNING, "the number's display name was rejected"),
    "DEFERRED": (WARNING, "Meta put off the decision about the number's display name"),
    "PENDING": (INFO, "the number's display name is being reviewed"),
    "*": (WARNING, "the review of the number's display name moved on"),
}
_SECURITY: _Words = {
    "PIN_CHANGED": (WARNING, "the number's two-step PIN was changed"),
    "PIN_RESET_REQUEST": (WARNING, "a reset of the number's two-step PIN was asked for"),
    "PIN_RESET_SUCCESS": (WARNING, "the number's two-step PIN was reset"),
    "*": (WARNING, "a security setting of the number changed"),
}
_TEMPLATE_STATUS: _Words = {
    "APPROVED": (INFO, "a template was approved"),
    "REINSTATED": (INFO, "a template may be sent again"),
    "PENDING": (INFO, "a template is being reviewed"),
    "IN_APPEAL": (INFO, "a template's rejection is being appealed"),
    "UNARCHIVED": (INFO, "a template is no longer archived"),
    "REJECTED": (WARNING, "a template was rejected"),
    "FLAGGED": (WARNING, "a template gets bad feedback and may be paused"),
    "PAUSED": (WARNING, "a template is paused: it cannot be sent"),
    "DISABLED": (WARNING, "a template is disabled: it cannot be sent"),
    "LOCKED": (WARNING, "a template is locked: it cannot be edited"),
    "ARCHIVED": (WARNING, "a template was archived: it cannot be sent"),
    "PENDING_DELETION": (WARNING, "a template will be deleted"),
    "DELETED": (WARNING, "a template was deleted"),
    "LIMIT_EXCEEDED": (WARNING, "the account has as many templates as it may"),
    "*": (WARNING, "a template's status changed"),
}
_TEMPLATE_QUALITY: _Words = {
    "GREEN": (INFO, "a template's quality is high"),
    "YELLOW": (WARNING, "a template's quality is medium"),
    "RED": (WARNING, "a template's quality is low: Meta may pause it"),
    "UNKNOWN": (INFO, "a template's quality is not known yet"),
    "*": (INFO, "a template's quality changed"),
}
_TEMPLATE_CATEGORY: _Words = {
    "MARKETING": (WARNING, "a template is now marketing, which changes its price and limits"),
    "UTILITY": (INFO, "a template is now utility, which changes its price and limits"),
    "AUTHENTICATION": (INFO, "a template is now authentication, which changes its price and limits"),
    "*": (WARNING, "a template's category changes, and with it its price and limits"),
}
_BUSINESS: _Words = {
    "COMPROMISED_NOTIFICATION": (ERROR, "Meta takes the business's account for compromised"),
    "*": (WARNING, "the status of the business changed"),
}
_ONE_EVENT: Mapping[str, tuple[int, str]] = {
    "business_capability_update": (INFO, "the limits of the business changed"),
    "message_template_components_update": (INFO, "a template's contents were edited"),
    "account_settings_update": (INFO, "a setting of the number changed"),
    "errors": (WARNING, "WhatsApp reports a problem of the number"),
}

_BLOCKS: Mapping[str, BlockReason] = {
    "DISABLED_UPDATE": BlockReason.ACCOUNT_LOCKED,
    "ACCOUNT_DELETED": BlockReason.ACCOUNT_LOCKED,
    "ACCOUNT_OFFBOARDED": BlockReason.NUMBER_NOT_REGISTERED,
    "PARTNER_REMOVED": BlockReason.PERMISSION_MISSING,
    "PARTNER_APP_UNINSTALLED": BlockReason.PERMISSION_MISSING,
}
"""Of `account_update`: after these nothing can be sent. A restriction may leave answers to customers allowed."""
_ENDS = frozenset({"DISABLED_UPDATE:REINSTATE", "ACCOUNT_RECONNECTED", "PARTNER_APP_INSTALLED", "PARTNER_ADDED"})
_NO_BLOCK_YET = frozenset({"DISABLED_UPDATE:SCHEDULE_FOR_DISABLE"})

_FIELDS: Mapping[str, tuple[tuple[str, ...], _Words]] = {
    "account_update": (("event",), _ACCOUNT_UPDATE),
    "account_alerts": (("alert_severity", "alert_info.alert_severity"), _ACCOUNT_ALERTS),
    "account_review_update": (("decision",), _REVIEW),
    "phone_number_quality_update": (("event",), _QUALITY),
    "phone_number_name_update": (("decision",), _NUMBER_NAME),
    "business_status_update": (("event",), _BUSINESS),
    "security": (("event",), _SECURITY),
    "message_template_status_update": (("event",), _TEMPLATE_STATUS),
    "message_template_quality_update": (("new_quality_score",), _TEMPLATE_QUALITY),
    "template_category_update": (("new_category", "correct_category"), _TEMPLATE_CATEGORY),
    **{field: ((), {"*": words}) for field, words in _ONE_EVENT.items()},
}
"""Of each field: where its event stands (dotted, the first that is there), and what each event means."""

_ABOUT_TEMPLATES = frozenset(field for field in _FIELDS if "template" in field)

NOTICE_FIELDS = frozenset(_FIELDS) - {"errors"}
"""As the name of a change; `errors` come inside the field `messages`."""


@dataclass(frozen=True, slots=True)
class AccountNotice:
    """One report. `event` is Meta's word in upper case, `""` when the field has none. `details`: the report's scalars
    by dotted name, at most `MAX_DETAILS` of `DETAIL_CHARACTERS`. At least one of the three ids is known as a rule."""

    field: str
    event: str
    details: Mapping[str, str]
    waba_id: str | None
    phone_number: str | None
    """Of the business, digits."""
    phone_number_id: str | None

    @property
    def severity(self) -> int:
        """A level of `logging`."""
        return self._words[0]

    @property
    def words(self) -> str:
        """What happened, in a sentence without a full stop."""
        return self._words[1]

    @property
    def event_label(self) -> str:
        """`event` for a metric: one of a few, "other" for what is not in the table, "update" for fields without."""
        if not _FIELDS[self.field][0]:
            return "update"
        return self.event.lower() if self.event in _FIELDS[self.field][1] else OTHER

    @property
    def block(self) -> BlockReason | None:
        """Why nothing can be sent any more, if that is what it says."""
        if self.field != "account_update" or self.ends_block or self._variant in _NO_BLOCK_YET:
            return None
        return _BLOCKS.get(self.event)

    @property
    def ends_block(self) -> bool:
        """It says that sending is possible again."""
        return self.field == "account_update" and bool({self.event, self._variant} & _ENDS)

    @property
    def template(self) -> Json | None:
        """What it says of a template, for other systems; `None` for a report about anything else."""
        if self.field not in _ABOUT_TEMPLATES:
            return None
        named = {name: self.details.get(f"message_template_{name}") for name in ("id", "name", "language")}
        reason = self.details.get("reason")
        return {**named, "field": self.field, "event": self.event, "words": self.words, "reason": reason}

    @property
    def _variant(self) -> str:
        return f"{self.event}:{self.details.get('ban_info.waba_ban_state', '').upper()}"

    @property
    def _words(self) -> tuple[int, str]:
        words = _FIELDS[self.field][1]
        return words.get(self._variant) or words.get(self.event) or words["*"]


def read_notice(
    field: str, value: Mapping[str, object], *, waba_id: str | None, phone_number_id: str | None
) -> AccountNotice:
    """The report in a change's `value`; total. `field` is of `NOTICE_FIELDS`, or "errors" with one error as `value`."""
    details = dict(_scalars(value))
    event = next((details[place] for place in _FIELDS[field][0] if place in details), "")
    number = next((value[name] for name in ("display_phone_number", "phone_number") if name in value), None)
    return AccountNotice(
        field=field,
        event=one_line(event, 60).upper(),
        details=details,
        waba_id=waba_id or details.get("waba_info.waba_id"),
        phone_number=phone_digits(number),
        phone_number_id=phone_number_id,
    )


def _scalars(value: Mapping[str, object]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, item in _leaves(value, "", DETAIL_DEPTH):
        found.append((one_line(name, DETAIL_CHARACTERS), one_line(str(item), DETAIL_CHARACTERS)))
        if len(found) == MAX_DETAILS:
            break
    return found


def _leaves(value: object, path: str, depth: int) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        named = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, list):
        named = [(str(index), item) for index, item in enumerate(value[:MAX_DETAILS])]
    elif value is not None and value != "":
        yield path, value
        return
    else:
        return
    if depth:
        for name, item in named:
            yield from _leaves(item, f"{path}.{name}" if path else name, depth - 1)
