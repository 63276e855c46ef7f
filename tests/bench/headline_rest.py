"""What stands for Supabase beside the service of `headline_before`: the part of PostgREST and of Auth that it uses.
Each request is one transaction, as with PostgREST, on a pool of 10 connections, PostgREST's default."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence

import asyncpg
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.bench.ingest_server import serve

KEEP_ALIVE_SECONDS = 75
POOL = 10
SCHEMA = """
create table users (id text primary key, token text unique);
create table account_members (account_id text, user_id text, role text, primary key (account_id, user_id));
create table whatsapp_accounts (id text primary key, phone_number_id text unique, access_token text);
create table bot_profiles (account_id text primary key, business_name text, description text, knowledge_base text);
create table contacts (id text primary key default gen_random_uuid()::text, account_id text, wa_id text, name text,
  unique (account_id, wa_id));
create table conversations (id text primary key default gen_random_uuid()::text, account_id text, contact_id text,
  updated_at timestamptz default now(), unique (account_id, contact_id));
create table messages (id bigserial primary key, conversation_id text, direction text, content text,
  wa_message_id text unique, status text, created_at timestamptz default now());
create index on messages (conversation_id, id);
create index on conversations (account_id, updated_at);
"""


class Rest:
    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    async def select(self, request: Request) -> Response:
        """`eq` filters, `order=column.desc`, `limit`."""
        query = dict(request.query_params)
        order, limit = query.pop("order", "").split(".")[:2] or [""], query.pop("limit", "")
        sql = f"select * from {_name(request.path_params['table'])} t where {_where(query, first=1)}"
        sql += f" order by {_name(order[0])} desc" if order[0] else ""
        sql += f" limit {int(limit)}" if limit else ""
        return await self._answer(sql, *_values(query))

    async def insert(self, request: Request) -> Response:
        """One row; with `on_conflict` the row that is there instead."""
        table, raw = _name(request.path_params["table"]), await request.body()
        columns = ", ".join(map(_name, orjson.loads(raw)))
        sql = f"insert into {table} as t ({columns}) select {columns} from json_populate_record(null::{table}, $1)"
        if conflict := request.query_params.get("on_conflict", ""):
            column = _name(conflict.split(",")[0])
            columns = ", ".join(map(_name, conflict.split(",")))
            sql += f" on conflict ({columns}) do update set {column} = excluded.{column}"
        return await self._answer(f"{sql} returning t.*", raw.decode())

    async def update(self, request: Request) -> Response:
        table, raw, query = _name(request.path_params["table"]), await request.body(), dict(request.query_params)
        changes = ", ".join(f"{_name(column)} = new.{column}" for column in orjson.loads(raw))
        new = f"json_populate_record(null::{table}, $1)"
        sql = f"update {table} t set {changes} from {new} new where {_where(query, first=2)} returning t.*"
        return await self._answer(sql, raw.decode(), *_values(query))

    async def user(self, request: Request) -> Response:
        """Auth looks for the token's user at every request."""
        token = request.headers["authorization"].removeprefix("Bearer ")
        answer = await self._answer("select id from users t where token = $1", token)
        return Response(orjson.dumps(orjson.loads(answer.body)[0])) if answer.status_code == 200 else answer

    async def _answer(self, sql: str, *values: str) -> Response:
        """The rows as a JSON array, or 503 while the database is away."""
        try:
            async with self._opening:
                self._pool = self._pool or await asyncpg.create_pool(self._database_url, min_size=POOL, max_size=POOL)
            rows = await self._pool.fetchval(f"with f as ({sql}) select coalesce(json_agg(f), '[]') from f", *values)
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
            return Response('{"message":"no connection to the database"}', 503, media_type="application/json")
        return Response(rows, media_type="application/json")


def _name(name: str) -> str:
    """An identifier for SQL."""
    if not re.fullmatch("[a-z_]+", name):
        raise ValueError(name)
    return name


def _filters(query: dict[str, str]) -> dict[str, str]:
    return {name: value.removeprefix("eq.") for name, value in query.items() if value.startswith("eq.")}


def _where(query: dict[str, str], *, first: int) -> str:
    return " and ".join(f"t.{_name(name)} = ${number}" for number, name in enumerate(_filters(query), first)) or "true"


def _values(query: dict[str, str]) -> Sequence[str]:
    return list(_filters(query).values())


def main() -> None:
    rest = Rest(os.environ["DATABASE_URL"])
    table = "/rest/v1/{table}"
    serve(
        Starlette(
            routes=[
                Route(table, rest.select, methods=["GET"]),
                Route(table, rest.insert, methods=["POST"]),
                Route(table, rest.update, methods=["PATCH"]),
                Route("/auth/v1/user", rest.user),
            ]
        ),
        keep_alive_seconds=KEEP_ALIVE_SECONDS,
    )


if __name__ == "__main__":
    main()
