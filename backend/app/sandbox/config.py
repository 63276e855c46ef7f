"""What the stand-ins are told at start (`SandboxConfig`) and, while they run, over HTTP (`Behaviour`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0, le=86_400)]

APP_SECRET = "sandbox-app-secret"
APP_ID = "1029384756"
"""Of the app that tokens are made for, and that is subscribed, unless an account says otherwise."""
TOKEN_SCOPES = ("whatsapp_business_management", "whatsapp_business_messaging")


class Behaviour(BaseModel):
    """Limits and status webhooks; every field can be changed over HTTP. Limits and delays as Meta documents them,
    except that delivery is faster than any phone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pair_interval_seconds: Seconds = 6.0
    """One message per this long to one user; 0 switches the pair rate (131056) off."""
    pair_burst: int = Field(default=45, ge=1, le=10_000)
    """Messages to one user that may be borrowed from the future."""
    messages_per_second: int = Field(default=80, ge=0, le=100_000)
    """Per business number; 0 switches the throughput limit (130429) off."""
    window_hours: float = Field(default=24.0, ge=0)
    """Customer-service window (131047), enforced for customers whose last message is known; 0 switches it off."""

    model_seconds: Seconds = 0.0
    """How long the stand-in for Gemini thinks about every answer; half of it at least, drawn evenly."""

    statuses: bool = True
    sent_after_seconds: Seconds | None = 0.0
    """`None` on any of the three: that status never comes."""
    delivered_after_seconds: Seconds | None = 0.02
    read_after_seconds: Seconds | None = 0.05
    shuffle: bool = False
    """Hand the three delays out at random, so that `read` may come before `sent`."""
    batch_max: int = Field(default=100, ge=1, le=1000)
    """Statuses in one POST; Meta sends up to 1,000."""
    batch_window_seconds: Seconds = 0.0
    """Wait this long for more statuses before posting."""
    duplicate_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the statuses that are delivered a second time."""
    redelivery_seconds: tuple[Seconds, ...] = Field(default=(0.0, 0.2, 1.0, 5.0, 15.0, 60.0), max_length=100)
    """Pauses before each redelivery after anything but 200; then the status is given up (Meta: after 7 days)."""
    callback_timeout_seconds: float = Field(default=10.0, gt=0, le=60)


@dataclass(frozen=True, slots=True)
class SandboxAccount:
    """A business number. Only `access_token` opens it."""

    phone_number_id: str
    access_token: str = field(repr=False)
    display_phone_number: str = "15550783881"
    waba_id: str = "102290129340398"
    verified_name: str = "Sandbox"
    quality_rating: str = "GREEN"
    messaging_limit_tier: str = "TIER_1K"
    status: str = "CONNECTED"
    name_status: str = "APPROVED"
    can_send_message: str = "AVAILABLE"
    """Of `health_status`; BLOCKED and LIMITED come with an error of the WhatsApp Business account."""
    token_valid: bool = True
    """`False`: it has expired; every call with it is refused (190)."""
    token_expires_at: int = 0
    """Unix seconds; 0: never."""
    token_scopes: tuple[str, ...] = TOKEN_SCOPES
    app_id: str = APP_ID
    subscribed_apps: tuple[str, ...] = (APP_ID,)


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """`port` 0 takes a free one. Everything is held in memory and bounded."""

    host: str = "127.0.0.1"
    port: int = 0
    app_secret: str = field(default=APP_SECRET, repr=False)
    callback_urls: tuple[str, ...] = ()
    accounts: tuple[SandboxAccount, ...] = ()
    accept_unknown_accounts: bool = True
    """Let any non-empty bearer token send for a number that is not registered."""
    gemini_api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Empty: any non-empty key will do."""
    gemini_models: tuple[str, ...] = ("gemini-3.5-flash-lite", "gemini-2.5-flash", "gemini-2.5-pro")
    behaviour: Behaviour = field(default_factory=Behaviour)
    record_max_entries: int = 200_000
    record_max_bytes: int = 128 * 1024 * 1024
    media_max_bytes: int = 256 * 1024 * 1024
    seed: int = 0
    """Of shuffling and duplicates, so that a run can be repeated."""
