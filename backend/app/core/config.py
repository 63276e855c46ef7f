"""Every setting, from the environment or `.env`. Units are in the names; unsafe production values are refused."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.core.redis_url import RedisUrl
from app.core.secrets import SecretError, TokenCipher


class SettingsError(Exception):
    """A setting is missing, contradictory or unsafe. `problems` maps the environment name to what to do."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        self.problems = problems


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


class Durability(StrEnum):
    EVERYSEC = "everysec"
    FSYNC = "fsync"


class RedisDurability(StrEnum):
    """On what the durability of an accepted message rests (docs/operations.md, Managed Redis)."""

    AOF = "aof"
    """Redis' append-only file, which is looked at."""
    MANAGED = "managed"
    """The provider's word that a restart and a fail-over keep what was accepted. It cannot be looked at."""
    NONE = "none"
    """Postgres: it stores every event before the 200, and until it is handled."""


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _base_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_base_url)]

POSTGRES_SCHEMES = ("postgresql://", "postgres://")


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
    """One replica's settings. Field names in upper case are the environment names (DESIGN §10)."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True)

    app_env: Env = Env.DEVELOPMENT
    app_role: ReplicaRole = ReplicaRole.ALL
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    log_format: LogFormat = LogFormat.JSON
    chorus_build: str | None = None

    redis_url: str | None = None
    redis_cache_url: str | None = None
    redis_namespace: str = Field("chorus", pattern="^[a-z0-9_-]{1,40}$")
    database_url: SecretStr | None = None
    supabase_url: BaseUrl | None = None
    supabase_key: SecretStr | None = None
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
    whatsapp_phone_id: str | None = None

    ingest_fallback: IngestFallback = IngestFallback.NONE
    durability: Durability = Durability.EVERYSEC
    redis_durability: RedisDurability = RedisDurability.AOF
    queue_max_pending: int = Field(100_000, ge=1)
    worker_concurrency: int = Field(50, ge=1, le=1000)
    debounce_seconds: float = Field(1.0, ge=0, le=60)
    lease_seconds: float = Field(15, ge=1, le=300)
    reply_deadline_seconds: float = Field(600, gt=0)
    send_reconcile_seconds: float = Field(20, ge=0)
    daily_messages_per_conversation: int = Field(300, ge=0)
    daily_tokens_per_conversation: int = Field(2_000_000, ge=0)
    daily_messages_per_account: int = Field(0, ge=0)
    daily_tokens_per_account: int = Field(0, ge=0)
    drain_seconds: float = Field(5, ge=0, le=300)
    readiness_requires: Annotated[tuple[str, ...], NoDecode] = ()

    admin_api_key: SecretStr | None = None
    encryption_key: Annotated[tuple[SecretStr, ...], NoDecode] = ()

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in ("meta_app_secret", "encryption_key", "readiness_requires"):
            if name in values:
                values[name] = _split(values[name])
        return values

    def check_serve(self) -> None:
        """What a serving replica cannot do without. Raises `SettingsError` naming every problem at once."""
        problems = self._redis_problems()
        if not self.database_url and not self.supabase_url:
            problems["DATABASE_URL"] = "is missing; set it, or SUPABASE_URL and SUPABASE_KEY"
        if self.database_url and self.supabase_url and self.supabase_key:
            problems["DATABASE_URL"] = "contradicts SUPABASE_URL + SUPABASE_KEY; keep one way to the database"
        if self.database_url and not self.database_url.get_secret_value().startswith(POSTGRES_SCHEMES):
            problems["DATABASE_URL"] = f"must start with {' or '.join(POSTGRES_SCHEMES)}"
        if self.supabase_key and not self.supabase_url:
            problems["SUPABASE_URL"] = "is missing although SUPABASE_KEY is set"
        if self.supabase_url and not self.supabase_key and not self.database_url:
            problems["SUPABASE_KEY"] = "is missing although SUPABASE_URL is set"
        if not self.meta_app_secret:
            problems["META_APP_SECRET"] = "is missing; webhooks are signed with the Meta app's secret"
        if not self.gemini_api_key:
            problems["GEMINI_API_KEY"] = "is missing"
        if self.redis_durability is not RedisDurability.AOF and self.ingest_fallback is not IngestFallback.DATABASE:
            problems["INGEST_FALLBACK"] = (
                f"must be database with REDIS_DURABILITY={self.redis_durability}: Postgres takes what Redis cannot keep"
            )
        problems |= self._encryption_problems()
        if bool(self.whatsapp_token) != bool(self.whatsapp_phone_id):
            lone = "WHATSAPP_PHONE_ID" if self.whatsapp_token else "WHATSAPP_TOKEN"
            problems[lone] = "is missing; WHATSAPP_TOKEN and WHATSAPP_PHONE_ID bootstrap an account together"
        unknown = set(self.readiness_requires) - {"redis", "database"}
        if unknown:
            problems["READINESS_REQUIRES"] = f"takes redis and database, not {', '.join(sorted(unknown))}"
        if self.app_env is Env.PRODUCTION:
            problems |= self._production_problems()
        if problems:
            raise SettingsError(problems)

    def check_redis(self) -> None:
        """What a command that needs nothing but Redis cannot do without. Raises `SettingsError`."""
        if problems := self._redis_problems():
            raise SettingsError(problems)

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

    def _production_problems(self) -> dict[str, str]:
        problems: dict[str, str] = {}
        if not self.admin_api_key or len(self.admin_api_key.get_secret_value()) < 24:
            problems["ADMIN_API_KEY"] = "must be set, 24 characters or more, when APP_ENV=production"
        if any(len(s.get_secret_value()) < 16 for s in self.meta_app_secret):
            problems["META_APP_SECRET"] = "is too short to be a real app secret"
        for name, url in (("WHATSAPP_BASE_URL", self.whatsapp_base_url), ("GEMINI_BASE_URL", self.gemini_base_url)):
            if not url.startswith("https://"):
                problems[name] = "must be https when APP_ENV=production: it carries tokens"
        if not self.whatsapp_verify_token:
            problems["WHATSAPP_VERIFY_TOKEN"] = "must be set when APP_ENV=production"
        return problems


def load_settings(**overrides: Any) -> Settings:
    """Read environment and `.env`; `overrides` win. Raises `SettingsError` instead of pydantic's own error,
    and never repeats a value, which may be a secret."""
    try:
        return Settings(**overrides)
    except ValidationError as exc:
        problems = {".".join(str(p) for p in e["loc"]).upper() or "ENVIRONMENT": e["msg"] for e in exc.errors()}
        raise SettingsError(problems) from None
