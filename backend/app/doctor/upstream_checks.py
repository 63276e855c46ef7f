"""Gemini and WhatsApp, asked without sending anything: Gemini for one token, WhatsApp without a token of an account."""

from __future__ import annotations

from app.adapters.gemini import GeminiModel
from app.adapters.whatsapp import WhatsAppMessenger
from app.core.errors import Unavailable
from app.core.secrets import TokenCipher
from app.doctor.causes import of_gemini, of_whatsapp
from app.doctor.findings import Finding
from app.settings import Settings


async def check_gemini(settings: Settings) -> list[Finding]:
    model = GeminiModel(
        base_url=settings.gemini_base_url,
        api_key=settings.gemini_api_key.get_secret_value() if settings.gemini_api_key else "",
        default_model=settings.gemini_model,
    )
    try:
        await model.probe()
    except Unavailable as exc:
        cause = of_gemini(exc, settings)
        return [Finding("gemini", "bad", cause.said, cause.mend)]
    return [Finding("gemini", "ok", f"{settings.gemini_base_url}, {settings.gemini_model}")]


async def check_whatsapp(settings: Settings) -> list[Finding]:
    messenger = WhatsAppMessenger(
        base_url=settings.whatsapp_base_url,
        api_version=settings.whatsapp_api_version,
        cipher=TokenCipher([TokenCipher.generate_key()]),  # nothing is decrypted here
    )
    try:
        await messenger.find_api()
    except Unavailable as exc:
        cause = of_whatsapp(exc, settings)
        return [Finding("whatsapp", "bad", cause.said, cause.mend)]
    return [Finding("whatsapp", "ok", settings.whatsapp_base_url)]
