"""Every error Chorus raises on purpose.

    core.errors.Expected                   its text is ours, and may be logged
    ├── core.errors.Unavailable            a dependency is down, slow, limiting or its circuit is open
    │   ├── core.errors.DeadlineExceeded
    │   ├── core.errors.Overloaded         a limit of our own; nothing was sent
    │   ├── core.circuit_breaker.CircuitBreakerOpenError
    │   └── core.queue.QueueUnavailable / QueueFull
    └── ChorusError
        ├── ConfigurationError             the operator must change a setting (exit code 2)
        ├── MigrationFailed                the database refused a statement of `chorus migrate` (exit code 1)
        ├── InvalidInput                   the caller sent something wrong, `field` names it
        │   └── IdempotencyKeyReused       … an Idempotency-Key that stands for another request
        ├── Unauthenticated / Forbidden    who are you / you may not
        ├── NotFound / Conflict
        ├── RateLimited                    this caller did it too often; again after `retry_after`
        ├── Unprocessable                  this event can never be handled as things stand -> dead letter
        │   └── UnknownAccount             … until the account is created and the event replayed
        ├── Erased                         a customer's message that was erased: it is not stored again
        ├── Fenced                         another worker holds the conversation now; stop, write nothing
        ├── ModelRefused                   the model will not answer this; asking again is useless
        └── SendError                      what WhatsApp said of one send
            ├── SendThrottled              a limit; try again after `retry_after`
            ├── SendRejected               this message can never be sent
            ├── MediaTooLarge              … or this file not be taken in: it is larger than it may be
            ├── MediaGone                  … WhatsApp does not have it (any more), or names a place that is not its own
            ├── AccountRejected            this account's token or number is unusable
            └── SendAmbiguous              it may have been sent; never repeat it blindly

What each one means for an HTTP caller is in `api/errors.py`; what it means for a queued event in
`services/inbox_worker.py`. A new error needs a row in both tables.
"""

from __future__ import annotations

from app.core.errors import DeadlineExceeded, Expected, Unavailable
from app.domain.models import BlockReason

__all__ = [
    "AccountRejected", "ChorusError", "ConfigurationError", "Conflict", "DeadlineExceeded", "Erased", "Fenced",
    "Forbidden", "IdempotencyKeyReused", "InvalidInput", "MediaGone", "MediaTooLarge", "MigrationFailed",
    "ModelRefused", "NotFound", "RateLimited", "SendAmbiguous", "SendError", "SendRejected", "SendThrottled",
    "Unauthenticated", "Unavailable", "UnknownAccount", "Unprocessable",
]  # fmt: skip


class ChorusError(Expected):
    """Root of the errors that carry a stable snake_case `code`."""

    code = "internal_error"


class ConfigurationError(ChorusError):
    """A setting is missing, contradictory or unsafe. `variable` is the environment name to change, `problem` what is
    wrong with it and what to do."""

    code = "configuration_error"

    def __init__(self, variable: str, message: str) -> None:
        super().__init__(f"{variable}: {message}")
        self.variable = variable
        self.problem = message

    def of(self, variable: str) -> ConfigurationError:
        """The same about the setting whose value was really used."""
        return ConfigurationError(variable, self.problem.replace(self.variable, variable))


class MigrationFailed(ChorusError):
    """The database refused a statement: a mistake in a migration, or rows that contradict it. Nothing of it is left."""

    code = "migration_failed"


class InvalidInput(ChorusError):
    """What the caller sent is wrong; `field` is the dotted path of the culprit, if there is one."""

    code = "invalid_input"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class IdempotencyKeyReused(InvalidInput):
    """The key belongs to an earlier request with another body."""

    code = "idempotency_key_reused"


class Unauthenticated(ChorusError):
    code = "unauthenticated"


class Forbidden(ChorusError):
    code = "forbidden"


class NotFound(ChorusError):
    """`what` does not exist, or the caller may not know that it does."""

    def __init__(self, what: str) -> None:
        super().__init__(f"no such {what.replace('_', ' ')}")
        self.code = f"{what}_not_found"


class Conflict(ChorusError):
    """The request is well formed but the present state forbids it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RateLimited(ChorusError):
    """This caller did it as often as they may. `retry_after`: seconds until they may again."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unprocessable(ChorusError):
    """This event cannot be handled as things stand; `reason` is kept with the dead letter."""

    code = "unprocessable"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnknownAccount(Unprocessable):
    code = "unknown_account"

    def __init__(self, phone_number_id: str) -> None:
        super().__init__(f"unknown phone_number_id {phone_number_id}")


class Erased(ChorusError):
    """The customer was erased while this message was on its way; nothing of it is stored."""

    code = "erased"


class Fenced(ChorusError):
    """A newer fencing token has written; whatever this worker was about to write is void."""

    code = "fenced"


class ModelRefused(ChorusError):
    """The model answered, but not with text we may send. `reason` is the model's own word for it; `about_the_text`: the
    conversation's own words were refused, so that asking again with them in the history would end the same way."""

    code = "model_refused"

    def __init__(self, reason: str, *, about_the_text: bool = True) -> None:
        super().__init__(f"the model gave no usable answer: {reason}")
        self.reason = reason
        self.about_the_text = about_the_text


class SendError(ChorusError):
    """WhatsApp's verdict on one send. `wa_code` is Meta's `error.code`, `None` when there was none."""

    code = "send_failed"

    def __init__(self, message: str, *, wa_code: int | None = None) -> None:
        super().__init__(message)
        self.wa_code = wa_code


class SendThrottled(SendError):
    code = "send_throttled"

    def __init__(self, message: str, *, wa_code: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, wa_code=wa_code)
        self.retry_after = retry_after


class SendRejected(SendError):
    code = "send_rejected"


class MediaTooLarge(SendError):
    code = "media_too_large"


class MediaGone(SendError):
    code = "media_gone"


class AccountRejected(SendError):
    """`reason`: what is wrong with the account. `retry_after`: when to try again, where the sender knows."""

    code = "account_rejected"
    retry_after: float | None = None

    def __init__(self, message: str, *, reason: BlockReason, wa_code: int | None = None) -> None:
        super().__init__(message, wa_code=wa_code)
        self.reason = reason


class SendAmbiguous(SendError):
    code = "send_ambiguous"
