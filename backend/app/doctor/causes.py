"""A failure of a dependency in one line: the cause, and what to do. For `chorus doctor` and for every command."""

from __future__ import annotations

from app.adapters.database_trouble import database_cause
from app.adapters.gemini import NO_JSON
from app.adapters.whatsapp import NO_GRAPH_API, UNKNOWN_PATH
from app.core.network_trouble import Cause, network_cause, proxy_refusal
from app.core.redaction import place_of
from app.doctor.redis_causes import redis_cause
from app.settings import Settings

_OWNERS = "MIGRATE_DATABASE_URL"


def of_redis(exc: BaseException, url: str, name: str = "REDIS_URL") -> Cause:
    """`name`: the setting that `url` comes from."""
    cause = redis_cause(exc, url) or Cause(str(exc) or type(exc).__name__, "see its log")
    return Cause(f"{place_of(url)}: {cause.said}", f"{cause.mend} ({name})")


def of_database(exc: BaseException, settings: Settings, *, as_owner: bool = False) -> Cause:
    """`as_owner`: what failed goes by MIGRATE_DATABASE_URL, where that is set."""
    cause = database_cause(exc) or Cause(str(exc) or type(exc).__name__, "see its log")
    if as_owner and settings.migrate_database_url:
        place, mend = place_of(settings.migrate_database_url.get_secret_value()), cause.mend
        return Cause(f"{place}: {cause.said}", f"{mend.replace('DATABASE_URL', _OWNERS)} ({cause.setting or _OWNERS})")
    setting = cause.setting or _database_setting(settings)
    return Cause(f"{database_place(settings)}: {cause.said}", f"{cause.mend} ({setting})")


def of_gemini(exc: BaseException, settings: Settings) -> Cause:
    """By the answer to the probe, which asks for the model and sends nothing that could be wrong but the key. Google's
    refusals have a name behind the status; one without is of something else that answers there."""
    said = str(exc).removeprefix("gemini: ")
    status, _, name = said.removeprefix("HTTP ").partition(" ") if said.startswith("HTTP ") else ("", "", said)
    is_google = name != "" and name != NO_JSON
    if status == "407" and not is_google:
        cause = _proxy_of(settings.gemini_base_url)
    elif status[:1] in {"2", "3", "4"} and not is_google:
        cause = Cause(f"what answers there is not Gemini (HTTP {status})", "correct GEMINI_BASE_URL")
    elif name == "FAILED_PRECONDITION":
        cause = Cause("Gemini does not serve this key from here", "another region, or billing for the key's project")
    elif status == "400" or "API_KEY_INVALID" in name:
        cause = Cause("the key is wrong", "correct GEMINI_API_KEY")
    elif status in {"401", "403"}:
        cause = Cause("the key is refused: blocked, restricted, or of another project", "correct GEMINI_API_KEY")
    elif status == "404":
        cause = Cause(f"there is no model {settings.gemini_model} for this key", "correct GEMINI_MODEL")
    elif status in {"402", "429"}:
        cause = Cause(f"the key's quota or credit is used up ({said})", "raise it in Google AI Studio, or wait")
    else:
        cause = of_http(exc, "GEMINI_BASE_URL")
    return Cause(f"{settings.gemini_base_url}: {cause.said}", cause.mend)


def of_whatsapp(exc: BaseException, settings: Settings) -> Cause:
    """By the answer to `WhatsAppMessenger.find_api`."""
    if "HTTP 407" in str(exc):
        cause = _proxy_of(settings.whatsapp_base_url)
    elif NO_GRAPH_API in str(exc):
        cause = Cause(str(exc).removeprefix("whatsapp: "), "correct WHATSAPP_BASE_URL: https://graph.facebook.com")
    elif UNKNOWN_PATH in str(exc):
        mend = "correct WHATSAPP_BASE_URL (https://graph.facebook.com) or WHATSAPP_API_VERSION"
        cause = Cause(f"{UNKNOWN_PATH} {settings.whatsapp_api_version}", mend)
    else:
        cause = of_http(exc, "WHATSAPP_BASE_URL")
    return Cause(f"{settings.whatsapp_base_url}: {cause.said}", cause.mend)


def _proxy_of(base_url: str) -> Cause:
    refusal = proxy_refusal("407")
    setting = "HTTPS_PROXY" if base_url.startswith("https") else "HTTP_PROXY"
    return Cause(f"through the proxy: {refusal.said}", f"{refusal.mend} ({setting})")


def of_http(exc: BaseException, name: str) -> Cause:
    """`name`: the setting of the address, named unless it is a proxy's."""
    cause = network_cause(exc)
    if cause is None:
        return Cause(str(exc), f"check {name}, the proxy and the firewall")
    if cause.mend.startswith("name the CA"):
        return Cause(cause.said, "set HTTP_TRUST_ENV=true, and SSL_CERT_FILE to the CA's certificate")
    return Cause(cause.said, f"{cause.mend} ({cause.setting or name})")


def database_place(settings: Settings) -> str:
    if settings.database_url:
        return place_of(settings.database_url.get_secret_value())
    return settings.supabase_url or ""


def _database_setting(settings: Settings) -> str:
    return "DATABASE_URL" if settings.database_url else "SUPABASE_URL, SUPABASE_KEY"
