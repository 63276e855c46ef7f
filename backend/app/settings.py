"""Every setting, from the environment or `.env`. Units are in the names; unsafe production values are refused."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from dotenv.parser import Binding, parse_stream
from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core.core_schema import ValidationInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, NoDecode, SettingsConfigDict

from app.core.egress import Egress
from app.core.errors import SettingsError
from app.core.redaction import credentials_problem
from app.core.redis.url import RedisUrl
from app.core.secrets import (
    STORED_TOKEN,
    SecretError,
    TokenCipher,
    clean_secret,
    guessable,
    key_is_guessable,
    strip_secret,
)
from app.domain.app_secrets import app_secrets_problem, read_app_secrets
from app.domain.identifiers import PHONE_NUMBER_ID
from app.setting_names import is_name, misspelt


class Env(StrEnum):
    DEVELOPMENT = "development"
    PRODUCTION = "production"


class ReplicaRole(StrEnum):
    ALL = "all"
    API = "api"
    WORKER = "worker"


class LogFormat(StrEnum):
    JSON = "json"
    PRETTY = "pretty"


class IngestFallback(StrEnum):
    NONE = "none"
    DATABASE = "database"


class Signup(StrEnum):
    """Who may create accounts over HTTP: the operator alone, or also signed-in people for a number of theirs."""

    OPERATOR = "operator"
    OPEN = "open"


class MediaStoreKind(StrEnum):
    """Where customers' and people's files are kept."""

    POSTGRES = "postgres"
    SUPABASE = "supabase"
    """A private bucket of Supabase Storage."""


class Durability(StrEnum):
    EVERYSEC = "everysec"
    FSYNC = "fsync"


class Pooling(StrEnum):
    """Does every transaction get another connection of the database server?"""

    AUTO = "auto"
    """By the port, by a look at the start, and by the errors that come when it is switched."""
    SESSION = "session"
    """Directly, or through a pooler that leaves each of us a connection of our own."""
    TRANSACTION = "transaction"


class RedisDurability(StrEnum):
    """On what the durability of an accepted message rests (docs/operations.md, Managed Redis)."""

    AOF = "aof"
    """Redis' append-only file, which is looked at."""
    MANAGED = "managed"
    """The provider's word that a restart and a fail-over keep what was accepted. It cannot be looked at."""
    NONE = "none"
    """Postgres: it stores every event before the 200, and until it is handled."""


def _split(value: str, *, ascii_only: bool) -> tuple[str, ...]:
    parts = (clean_secret(part, ascii_only=ascii_only) for part in value.split(","))
    return tuple(part for part in parts if part)


_APPENDED = re.compile(r"(/(rest|auth))?/v\d+(\.\d+)?((alpha|beta)\d*)?\Z")
"""Adapters append version and path. Looked for at the end only: a gateway may have a version of its own before it."""
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?", re.ASCII)


def _base_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    try:
        parts = urlsplit(value)
        is_place = parts.port != 0 and _is_host(parts.hostname or "")
    except ValueError:
        is_place = False
    if not is_place:
        raise ValueError("has a port that is none, or a host that is none")
    if "?" in value or "#" in value:
        raise ValueError("has '?' or '#' in it, but paths are appended to it: remove what begins there")
    if version := _APPENDED.search(parts.path.rstrip("/")):
        raise ValueError(f"ends in {version[0]}, which is appended to it: remove that")
    return value.rstrip("/")


def _public_url(value: str) -> str:
    value = _base_url(value)
    if urlsplit(value).path or "@" in value:
        raise ValueError("has a path or a user; give scheme and host alone, such as https://chorus.example.com")
    return value


def _is_host(name: str) -> bool:
    """Can it be the host of a URL? Whether there is one of that name only a look-up tells."""
    if ":" in name:
        return _is_address(name)
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return bool(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _listening_host(value: str) -> str:
    if not _is_address(value) and not _HOST_NAME.fullmatch(value):
        raise ValueError("takes an address or a name alone, such as 0.0.0.0 or ::, without scheme, brackets and port")
    return value


def _number_id(value: str) -> str:
    if not re.fullmatch(PHONE_NUMBER_ID, value):
        raise ValueError("takes the id of a number, 1 to 32 digits, as Meta shows it; it is not the number itself")
    return value


BaseUrl = Annotated[str, AfterValidator(_base_url)]
PublicUrl = Annotated[str, AfterValidator(_public_url)]
ListeningHost = Annotated[str, AfterValidator(_listening_host)]
NumberId = Annotated[str, AfterValidator(_number_id)]

POSTGRES_SCHEMES = ("postgresql://", "postgres://")

_LISTS = frozenset({"meta_app_secret", "encryption_key", "readiness_requires"})
_PROGRAMS_OF_THE_MACHINE = frozenset({"https_proxy", "http_proxy", "no_proxy", "ssl_cert_file"})
"""Other programs read these too, and may want a form of their own: judged only when HTTP_TRUST_ENV asks for them."""
_IN_HEADERS = frozenset({
    "gemini_api_key", "supabase_key", "supabase_publishable_key", "whatsapp_token", "admin_api_key", "metrics_api_key",
})  # fmt: skip


def _redis_problems(**urls: str | None) -> dict[str, str]:
    problems = {}
    for name, url in urls.items():
        try:
            if url:
                RedisUrl.parse(url)
        except ValueError as exc:
            problems[name] = str(exc)
    return problems


class Settings(BaseSettings):
    """One replica's settings. Field names in upper case are the environment names."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8-sig", extra="ignore", frozen=True, env_ignore_empty=True,
        allow_inf_nan=False,
    )  # fmt: skip

    app_env: Env = Env.DEVELOPMENT
    app_role: ReplicaRole = ReplicaRole.ALL
    host: ListeningHost = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    max_connections: int = Field(2000, ge=10, le=100_000)
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    log_format: LogFormat = LogFormat.JSON
    chorus_build: str | None = None

    redis_url: str | None = None
    redis_cache_url: str | None = None
    redis_namespace: str = Field("chorus", pattern="^[a-z0-9_-]{1,40}$")
    database_url: SecretStr | None = None
    database_pooling: Pooling = Pooling.AUTO
    database_connections: int | None = Field(None, ge=1, le=500)
    migrate_database_url: SecretStr | None = None
    supabase_url: BaseUrl | None = None
    supabase_key: SecretStr | None = None
    supabase_publishable_key: SecretStr | None = None
    supabase_jwt_secret: SecretStr | None = None

    gemini_api_key: SecretStr | None = None
    gemini_model: str = "gemini-3.5-flash-lite"
    gemini_base_url: BaseUrl = "https://generativelanguage.googleapis.com"
    whatsapp_base_url: BaseUrl = "https://graph.facebook.com"
    whatsapp_api_version: str = Field("v26.0", pattern=r"^v\d+\.\d+$")
    whatsapp_messages_per_second: float = Field(80, gt=0, le=1000)
    whatsapp_verify_token: SecretStr | None = None
    meta_app_secret: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    whatsapp_token: SecretStr | None = None
    whatsapp_phone_id: NumberId | None = None

    ingest_fallback: IngestFallback = IngestFallback.NONE
    durability: Durability = Durability.EVERYSEC
    redis_durability: RedisDurability = RedisDurability.AOF
    queue_max_pending: int = Field(100_000, ge=1)
    queue_max_bytes: int = Field(100_000_000, ge=1_000_000)
    worker_concurrency: int = Field(50, ge=1, le=1000)
    debounce_seconds: float = Field(1.0, ge=0, le=60)
    lease_seconds: float = Field(15, ge=1, le=300)
    interim_seconds: float = Field(30, ge=0)
    reply_deadline_seconds: float = Field(600, gt=0)
    send_reconcile_seconds: float = Field(20, ge=0)
    message_retention_days: int = Field(0, ge=0, le=36_500)
    daily_messages_per_conversation: int = Field(300, ge=0)
    daily_tokens_per_conversation: int = Field(2_000_000, ge=0)
    daily_messages_per_account: int = Field(0, ge=0)
    daily_tokens_per_account: int = Field(0, ge=0)
    media_store: MediaStoreKind = MediaStoreKind.POSTGRES
    media_max_bytes: int = Field(12_000_000, ge=100_000, le=14_000_000)
    media_retention_days: int = Field(30, ge=1, le=3650)
    drain_seconds: float = Field(5, ge=0, le=300)
    readiness_requires: Annotated[tuple[str, ...], NoDecode] = ()

    signup: Signup = Signup.OPERATOR
    session_idle_hours: float = Field(12, gt=0, le=24 * 90)
    session_max_days: float = Field(7, gt=0, le=90)
    public_url: PublicUrl | None = None
    trusted_proxies: int = Field(0, ge=0, le=10)
    audit_retention_days: int = Field(365, ge=0, le=36_500)
    admin_api_key: SecretStr | None = None
    metrics_api_key: SecretStr | None = None
    encryption_key: Annotated[tuple[SecretStr, ...], NoDecode] = ()

    events_allow_private: bool = False
    events_retry_cap_seconds: float = Field(3600, gt=0, le=86400)

    http_trust_env: bool = False
    https_proxy: SecretStr | None = None
    http_proxy: SecretStr | None = None
    no_proxy: str | None = None
    ssl_cert_file: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, values: dict[str, object]) -> dict[str, object]:
        """A setting of white space alone is one that is not set."""
        return {name: v for name, v in values.items() if not (isinstance(v, str) and not strip_secret(v))}

    @field_validator("*", mode="before")
    @classmethod
    def _clean(cls, value: object, info: ValidationInfo) -> object:
        """Every value, secret or not: none of ours contains white space, and a comment behind `=` is part of the value
        for docker."""
        name = info.field_name or ""
        if not isinstance(value, str) or name in _PROGRAMS_OF_THE_MACHINE:
            return value
        if name in _LISTS:
            return _split(value, ascii_only=False)
        return clean_secret(value, ascii_only=name in _IN_HEADERS)

    @property
    def egress(self) -> Egress:
        """How HTTP requests leave. Without HTTP_TRUST_ENV neither proxies nor certificates of the environment count."""
        private = self.events_allow_private
        if not self.http_trust_env:
            return Egress(strangers_may_be_private=private)
        return Egress(
            https_proxy=self.https_proxy.get_secret_value() if self.https_proxy else None,
            http_proxy=self.http_proxy.get_secret_value() if self.http_proxy else None,
            no_proxy=self.no_proxy or "",
            ca_file=self.ssl_cert_file,
            strangers_may_be_private=private,
        )

    @property
    def signs_people_in(self) -> bool:
        """Can people sign in to the console with their e-mail? Without Supabase only the operator can."""
        return bool(self.supabase_url and (self.supabase_publishable_key or self.supabase_key))

    @property
    def least_verify_bytes(self) -> int:
        """Verify tokens of accounts have as many bytes, or more, and are no character repeated; 0: not looked at."""
        return MIN_VERIFY_BYTES if self.app_env is Env.PRODUCTION else 0

    def check_serve(self) -> None:
        """What a serving replica cannot do without. Raises `SettingsError` naming every problem at once."""
        if problems := self.problems():
            raise SettingsError(problems)

    def problems(self) -> dict[str, str]:
        """What keeps a replica from serving, by the name of the setting."""
        problems = self._redis_problems()
        if not self.database_url and not self.supabase_url:
            problems["DATABASE_URL"] = "is missing; set it, or SUPABASE_URL and SUPABASE_KEY"
        if self.database_url and self.supabase_url and self.supabase_key:
            problems["DATABASE_URL"] = "contradicts SUPABASE_URL + SUPABASE_KEY; keep one way to the database"
        problems |= self._database_url_problems()
        if self.supabase_key and not self.supabase_url:
            problems["SUPABASE_URL"] = "is missing although SUPABASE_KEY is set"
        if self.supabase_url and not self.supabase_key and not self.database_url:
            problems["SUPABASE_KEY"] = "is missing although SUPABASE_URL is set"
        if self.media_store is MediaStoreKind.SUPABASE and not (self.supabase_url and self.supabase_key):
            problems["MEDIA_STORE"] = "is supabase, which needs SUPABASE_URL and SUPABASE_KEY"
        if not self.meta_app_secret:
            problems["META_APP_SECRET"] = "is missing; webhooks are signed with the Meta app's secret"
        elif problem := app_secrets_problem(secret.get_secret_value() for secret in self.meta_app_secret):
            problems["META_APP_SECRET"] = problem
        if not self.gemini_api_key:
            problems["GEMINI_API_KEY"] = "is missing"
        if self.redis_durability is not RedisDurability.AOF and self.ingest_fallback is not IngestFallback.DATABASE:
            problems["INGEST_FALLBACK"] = (
                f"must be database with REDIS_DURABILITY={self.redis_durability}: Postgres takes what Redis cannot keep"
            )
        problems |= self._encryption_problems()
        problems |= self.egress.problems()
        if bool(self.whatsapp_token) != bool(self.whatsapp_phone_id):
            lone = "WHATSAPP_PHONE_ID" if self.whatsapp_token else "WHATSAPP_TOKEN"
            problems[lone] = "is missing; WHATSAPP_TOKEN and WHATSAPP_PHONE_ID bootstrap an account together"
        if self.whatsapp_token and self.whatsapp_phone_id:
            problems |= self._first_account_problems()
        if self.signup is Signup.OPEN and not self.supabase_url:
            problems["SIGNUP"] = "is open, but without SUPABASE_URL nobody can sign in"
        unknown = set(self.readiness_requires) - {"redis", "database"}
        if unknown:
            problems["READINESS_REQUIRES"] = f"takes redis and database, not {', '.join(sorted(unknown))}"
        if self.app_env is Env.PRODUCTION:
            problems |= self._production_problems()
        return problems

    def check_redis(self) -> None:
        """What a command that needs nothing but Redis cannot do without. Raises `SettingsError`."""
        if problems := self._redis_problems():
            raise SettingsError(problems)

    def check_database(self) -> None:
        """What a command that needs nothing but the database cannot do without. Raises `SettingsError`."""
        problems = self._database_url_problems()
        if not self.database_url and not (self.supabase_url and self.supabase_key):
            problems["DATABASE_URL"] = "is missing; set it, or SUPABASE_URL and SUPABASE_KEY"
        if problems := problems | self.egress.problems():
            raise SettingsError(problems)

    def check_migrate(self) -> str:
        """The owner's URL. Raises `SettingsError` if there is none, or a URL is none."""
        problems = self._database_url_problems()
        owner = self.migrate_database_url or self.database_url
        if not owner:
            problems["DATABASE_URL"] = "is missing; migrations need a direct connection to Postgres"
        if problems or not owner:
            raise SettingsError(problems)
        return owner.get_secret_value()

    def check_encryption(self) -> None:
        """Raises `SettingsError` unless ENCRYPTION_KEY holds a key, or several."""
        if problems := self._encryption_problems():
            raise SettingsError(problems)

    def _database_url_problems(self) -> dict[str, str]:
        urls = {"DATABASE_URL": self.database_url, "MIGRATE_DATABASE_URL": self.migrate_database_url}
        found = {name: _postgres_problem(url.get_secret_value()) for name, url in urls.items() if url}
        return {name: problem for name, problem in found.items() if problem}

    def _redis_problems(self) -> dict[str, str]:
        missing = {} if self.redis_url else {"REDIS_URL": "is missing; e.g. redis://127.0.0.1:6379/0"}
        return missing | _redis_problems(REDIS_URL=self.redis_url, REDIS_CACHE_URL=self.redis_cache_url)

    def _encryption_problems(self) -> dict[str, str]:
        if not self.encryption_key:
            return {"ENCRYPTION_KEY": "is missing; make one with: chorus doctor --new-key"}
        try:
            TokenCipher(key.get_secret_value() for key in self.encryption_key)
        except SecretError as exc:
            return {"ENCRYPTION_KEY": f"is not usable: {exc}; make one with: chorus doctor --new-key"}
        return {}

    def _first_account_problems(self) -> dict[str, str]:
        """The account that they bootstrap takes what `chorus account add` takes."""
        tokens = {"WHATSAPP_TOKEN": self.whatsapp_token, "WHATSAPP_VERIFY_TOKEN": self.whatsapp_verify_token}
        return {
            name: "is no token of an account: 8 to 1000 visible ASCII characters"
            for name, token in tokens.items()
            if token and not re.fullmatch(STORED_TOKEN, token.get_secret_value())
        }

    def _production_problems(self) -> dict[str, str]:
        problems: dict[str, str] = {}
        for name, url in (
            ("WHATSAPP_BASE_URL", self.whatsapp_base_url),
            ("GEMINI_BASE_URL", self.gemini_base_url),
            ("SUPABASE_URL", self.supabase_url),
        ):
            if url and not url.startswith("https://"):
                problems[name] = "must be https when APP_ENV=production: it carries tokens"
        if self.public_url and not self.public_url.startswith("https://"):
            problems["PUBLIC_URL"] = "must be https when APP_ENV=production: links with tokens lead there"
        if self.events_allow_private:
            problems["EVENTS_ALLOW_PRIVATE"] = "must not be set when APP_ENV=production: it opens your own network"
        if not self.admin_api_key:
            problems["ADMIN_API_KEY"] = f"must be set, {MIN_SECRET_BYTES} bytes or more, when APP_ENV=production"
        if not self.whatsapp_verify_token:
            problems["WHATSAPP_VERIFY_TOKEN"] = "must be set when APP_ENV=production"
        app_secrets = read_app_secrets(secret.get_secret_value() for secret in self.meta_app_secret)
        if len(app_secrets) > 1 and not all(secret.app_id for secret in app_secrets):
            problems["META_APP_SECRET"] = "holds several secrets: write each as <app id>:<secret>, one app or several"
        found = {
            "ADMIN_API_KEY": guessable([_bytes(self.admin_api_key)], least=MIN_SECRET_BYTES),
            "METRICS_API_KEY": guessable([_bytes(self.metrics_api_key)], least=MIN_SECRET_BYTES),
            "SUPABASE_JWT_SECRET": guessable([_bytes(self.supabase_jwt_secret)], least=MIN_SECRET_BYTES),
            "META_APP_SECRET": guessable([secret.key for secret in app_secrets], least=MIN_SECRET_BYTES),
            "WHATSAPP_VERIFY_TOKEN": guessable([_bytes(self.whatsapp_verify_token)], least=MIN_VERIFY_BYTES),
        }
        if any(key_is_guessable(key.get_secret_value()) for key in self.encryption_key):
            problems["ENCRYPTION_KEY"] = "is one character or byte repeated; make one with: chorus doctor --new-key"
        return {name: problem for name, problem in found.items() if problem} | problems


MIN_SECRET_BYTES = 32
"""An app secret of Meta's has 32 hexadecimal digits; RFC 7518 §3.2 wants as much for HS256."""
MIN_VERIFY_BYTES = 16


def revealed(secret: SecretStr | None) -> str:
    """The secret itself; "" if it is not set."""
    return secret.get_secret_value() if secret else ""


def _bytes(secret: SecretStr | None) -> bytes:
    return revealed(secret).encode()


def _postgres_problem(url: str) -> str | None:
    if not url.startswith(POSTGRES_SCHEMES):
        return f"must start with {' or '.join(POSTGRES_SCHEMES)}"
    if problem := credentials_problem(url, tolerated="%"):  # asyncpg reads a lone one as it is
        return problem
    try:
        _ = urlsplit(url.replace(",", ".")).port  # several hosts are allowed, each with a port of its own
    except ValueError:
        return "has a port that is none, or a host that is none"
    return None


def load_settings(**overrides: Any) -> Settings:
    """Read environment and `.env`; `overrides` win. Raises `SettingsError` instead of pydantic's own error,
    and never repeats a value, which may be a secret."""
    try:
        return Settings(**overrides)
    except ValidationError as exc:
        problems = {str(e["loc"][0]).upper() if e["loc"] else "ENVIRONMENT": _words(e["msg"]) for e in exc.errors()}
        raise SettingsError(problems) from None
    except UnicodeDecodeError:
        raise SettingsError({".env": "is not UTF-8 text; save it as UTF-8"}) from None
    except OSError as exc:
        raise SettingsError({".env": f"cannot be read: {exc.strerror}"}) from None


def load_settings_leniently() -> tuple[Settings, dict[str, str]]:
    """The settings with the default in place of each value that is none, and what is wrong with those."""
    try:
        return load_settings(), {}
    except SettingsError as exc:
        problems = exc.problems
    given: dict[str, object] = {"_env_file": None} if ".env" in problems else {}
    defaults = {name: field.default for name, field in Settings.model_fields.items() if name.upper() in problems}
    try:
        return load_settings(**given, **defaults), problems
    except SettingsError as exc:  # with a file that cannot be read left out, the environment speaks for itself
        defaults |= {n: f.default for n, f in Settings.model_fields.items() if n.upper() in exc.problems}
        return load_settings(**given, **defaults), problems | exc.problems


def misspelt_settings() -> dict[str, str]:
    """Names in the environment and in `.env` that are no setting -> the setting that was probably meant."""
    try:
        in_file: Iterable[str] = DotEnvSettingsSource(Settings).env_vars
    except (OSError, UnicodeDecodeError):  # `load_settings` says so
        in_file = ()
    known = {name.upper(): field.default not in (None, ()) for name, field in Settings.model_fields.items()}
    return misspelt([*os.environ, *in_file], known)


MAX_LINES_SHOWN = 10
_FIRST_WORD = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)")


def file_problems() -> dict[str, str]:
    """What of `.env` is left out without a word, with what to do: lines that are no NAME=value, by `.env line 3`, the
    first 10; or the whole of it. Values are not repeated, and no names but ours: either may be a secret."""
    path = Path(".env")
    if path.is_dir():
        return {".env": "is a directory; no setting is read from it"}
    try:
        with path.open(encoding="utf-8-sig") as file:
            unread = [binding.original for binding in parse_stream(file) if _sets_nothing(binding)]
    except (OSError, UnicodeDecodeError):  # absent, or `load_settings` says so
        return {}
    problems = {}
    for original in unread[:MAX_LINES_SHOWN]:
        indent = len(original.string) - len(original.string.lstrip())
        line = original.line + original.string.count("\n", 0, indent)
        problems[f".env line {line}"] = (
            f"sets nothing; write {_setting_in(original.string) or 'NAME'}=value, and close a quote that it opens"
        )
    return problems


def _sets_nothing(binding: Binding) -> bool:
    """Also `REDIS_URL:redis://h?a=b`, which is the name of something for dotenv, and a lone name of ours."""
    if binding.key is None:
        return bool(binding.error)
    if not is_name(binding.key):
        return True
    return binding.value is None and _setting_in(binding.key) is not None


def _setting_in(line: str) -> str | None:
    first = _FIRST_WORD.match(line)
    name = first[1].upper() if first else ""
    known = {field.upper(): False for field in Settings.model_fields}
    return name if name in known else misspelt([name], known).get(name)


def _words(message: str) -> str:
    return message.removeprefix("Value error, ")
