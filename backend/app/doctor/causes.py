"""A failure of a dependency in one line: the cause, and what to do. For `chorus doctor` and for every command."""

from __future__ import annotations

from app.adapters.database_trouble import database_cause
from app.core.credentials import place_of
from app.core.network_trouble import Cause, network_cause
from app.core.redis.trouble import redis_cause
from app.settings import Settings


def of_redis(exc: BaseException, url: str, name: str = "REDIS_URL") -> Cause:
    """`name`: the setting that `url` comes from."""
    cause = redis_cause(exc, url) or Cause(str(exc) or type(exc).__name__, "see its log")
    return Cause(f"{place_of(url)}: {cause.said}", f"{cause.mend} ({name})")


def of_database(exc: BaseException, settings: Settings) -> Cause:
    cause = database_cause(exc) or Cause(str(exc) or type(exc).__name__, "see its log")
    return Cause(f"{database_place(settings)}: {cause.said}", f"{cause.mend} ({_database_setting(settings)})")


def of_gemini(exc: BaseException, settings: Settings) -> Cause:
    """By the answer to the probe, which asks for the model and sends nothing that could be wrong but the key."""
    text = str(exc)
    if "API_KEY_INVALID" in text or "HTTP 400" in text:
        cause = Cause("the key is wrong", "correct GEMINI_API_KEY")
    elif "HTTP 401" in text or "HTTP 403" in text:
        cause = Cause("the key is refused: blocked, restricted, or of another project", "correct GEMINI_API_KEY")
    elif "HTTP 404" in text:
        cause = Cause(f"there is no model {settings.gemini_model} for this key", "correct GEMINI_MODEL")
    else:
        cause = of_http(exc, "GEMINI_BASE_URL")
    return Cause(f"{settings.gemini_base_url}: {cause.said}", cause.mend)


def of_http(exc: BaseException, name: str) -> Cause:
    cause = network_cause(exc)
    if cause is None:
        return Cause(str(exc), f"check {name}, the proxy and the firewall")
    if cause.mend.startswith("name the CA"):
        return Cause(cause.said, "set HTTP_TRUST_ENV=true, and SSL_CERT_FILE to the CA's certificate")
    return Cause(cause.said, f"{cause.mend} ({name})")


def database_place(settings: Settings) -> str:
    if settings.database_url:
        return place_of(settings.database_url.get_secret_value())
    return settings.supabase_url or ""


def _database_setting(settings: Settings) -> str:
    return "DATABASE_URL" if settings.database_url else "SUPABASE_URL, SUPABASE_KEY"
