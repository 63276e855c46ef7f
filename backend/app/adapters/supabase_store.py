"""The store over Supabase's REST interface (SUPABASE_URL and SUPABASE_KEY), through supabase-py."""

from __future__ import annotations

import orjson
from postgrest.exceptions import APIError
from supabase import AsyncClient, AsyncClientOptions

from app.adapters.database_trouble import DatabaseUnavailable, Trouble, database_policy, trouble
from app.adapters.sql_store import ERASED, ERASED_CODE, ERASED_WORDS, OnChanges, SqlStore, ignore_changes
from app.core.errors import Overloaded
from app.core.http_client import AsyncClient as HttpClient
from app.core.http_client import is_network_error, is_pool_full
from app.core.resilience import ResiliencePolicy

MAX_CONCURRENT = 50
"""As many as the shared HTTP client lets through to one host by default."""

_KEY_REFUSED = frozenset({"401", "403"})


class SupabaseStore(SqlStore):
    """`key` is the secret (service) key: it bypasses row-level security, tenant checks are the services'. `http_client`
    is the shared one, with its time limits instead of supabase-py's 120 s; it is not ours to close."""

    def __init__(
        self,
        url: str,
        key: str,
        http_client: HttpClient,
        *,
        max_concurrent: int = MAX_CONCURRENT,
        policy: ResiliencePolicy | None = None,
        on_changes: OnChanges = ignore_changes,
    ) -> None:
        super().__init__(policy or database_policy(max_concurrent=max_concurrent), on_changes)
        options = AsyncClientOptions(httpx_client=http_client, auto_refresh_token=False, persist_session=False)
        self._client = AsyncClient(url, key, options)

    async def _execute(self, function: str, body: bytes) -> object:
        try:
            response = await self._client.rpc(function, {"p": orjson.loads(body)}).execute()
        except APIError as exc:
            if exc.code == ERASED_CODE or (exc.message or "").endswith(ERASED_WORDS):
                return ERASED
            if unavailable := _translate(exc):
                raise unavailable from exc
            raise
        except Exception as exc:
            if is_pool_full(exc):
                raise Overloaded("database", "supabase: no connection free") from exc
            if not is_network_error(exc):
                raise
            raise DatabaseUnavailable(Trouble.AWAY, type(exc).__name__) from exc
        if not isinstance(response.data, dict):
            raise DatabaseUnavailable(Trouble.AWAY, "the answer is no JSON object; a proxy's page, perhaps")
        return response.data

    async def aclose(self) -> None:
        """Nothing of ours to close."""


def _translate(exc: APIError) -> DatabaseUnavailable | None:
    """PostgREST's own answers carry a code of its or PostgreSQL's. Without one, or with an HTTP status in its place,
    it was a gateway or the edge that answered."""
    code = exc.code or "no code"
    if code in _KEY_REFUSED:
        return DatabaseUnavailable(Trouble.REFUSED, f"HTTP {code}, check SUPABASE_KEY")
    if exc.code is None or (code.isdecimal() and len(code) == 3):
        return DatabaseUnavailable(Trouble.AWAY, f"gateway answered {code}")
    return trouble(code, exc.message or "")
