"""`chorus account`: list, show, profile, rotate-token, check, rotate-keys; and an ENCRYPTION_KEY that is retired."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.adapters.postgres_store import PostgresStore
from app.api.deps import OPERATOR
from app.cli import main
from app.core.cache import Cache, CacheTimings, join_fleet
from app.core.http_client import close_http_client
from app.core.secrets import SecretError, TokenCipher
from app.domain.endpoints import Endpoint
from app.domain.models import Account, Role
from app.domain.opaque_tokens import digest_of, is_token
from app.sandbox.app import running_sandbox
from app.sandbox.config import SandboxAccount, SandboxConfig
from app.services.account_service import AccountService
from app.settings import Settings

OLD, NEW, LOST = (TokenCipher.generate_key() for _ in range(3))
NUMBER = "106540352242922"
TOKEN = "EAAG-the-token-of-the-bakery"
ACCOUNT: dict[str, Any] = {
    "name": "Maison Levain", "slug": "levain", "phone_number_id": NUMBER, "verify_token": "verify-the-bakery",
}  # fmt: skip

REFUSED = "Meta was not reached: connection refused"

Chorus = Callable[..., Awaitable[Result]]


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(store_url)
    yield store
    await store.aclose()
    await close_http_client()


@pytest.fixture
async def meta() -> AsyncIterator[str]:
    """Meta's stand-in, which knows the number by one token alone."""
    known = SandboxAccount(phone_number_id=NUMBER, access_token=TOKEN, display_phone_number="33612345678")
    async with running_sandbox(SandboxConfig(port=0, accounts=(known,))) as sandbox:
        yield sandbox.url


@pytest.fixture
def chorus(store_url: str, meta: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Chorus:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)

    async def run(*arguments: str, typed: str = "", **env: str) -> Result:
        given = {"DATABASE_URL": store_url, "ENCRYPTION_KEY": OLD, "WHATSAPP_BASE_URL": meta} | env
        # In a thread: a command runs an event loop of its own.
        return await asyncio.to_thread(CliRunner().invoke, main, ["account", *arguments], env=given, input=typed)

    return run


def service(store: PostgresStore, *keys: str) -> AccountService:
    return AccountService(store, TokenCipher(keys))


async def stored_token(store: PostgresStore, account: Account, *keys: str) -> str:
    """As a replica with these keys reads it, from the database."""
    found = await store.get_account(account.id)
    assert found is not None
    return TokenCipher(keys).decrypt(found.access_token)


@pytest.fixture
async def bakery(store: PostgresStore) -> Account:
    return await service(store, OLD).create(OPERATOR, access_token=TOKEN, **ACCOUNT)


async def test_accounts_are_listed_and_shown_without_their_secrets(chorus: Chorus, bakery: Account) -> None:
    listed, shown = await chorus("list"), await chorus("show", "levain")
    assert (listed.exit_code, shown.exit_code) == (0, 0)
    assert bakery.id in listed.stdout
    assert "1 accounts" in listed.stdout
    for result in (listed, shown, await chorus("list", "--json"), await chorus("show", bakery.id, "--json")):
        assert NUMBER in result.stdout
        for secret in (bakery.access_token, bakery.verify_token, TOKEN):
            assert secret not in result.stdout
    assert json.loads((await chorus("list", "--json")).stdout)[0]["slug"] == "levain"
    assert json.loads((await chorus("show", NUMBER, "--json")).stdout)["id"] == bakery.id


@pytest.mark.parametrize(
    "arguments", [["show"], ["profile"], ["rotate-token", "--unchecked"], ["check"]]
)  # fmt: skip
async def test_an_account_that_does_not_exist_is_exit_code_1(
    chorus: Chorus, bakery: Account, arguments: list[str]
) -> None:
    for name in ("nobody", "00000000-0000-0000-0000-000000000000", "'; drop table", "%", "é"):
        result = await chorus(*arguments, name, typed="a-new-token-of-it\n")
        assert (result.exit_code, result.stderr) == (1, "chorus: no such account\n")


@pytest.mark.parametrize(
    ("env", "token", "code"),
    [
        ("production", "short-15-chars!", 2), ("production", "a" * 40, 2), ("production", "16-characters-ok", 0),
        ("development", "12345678", 0),
    ],
)  # fmt: skip
async def test_production_takes_no_verify_token_that_may_be_guessed(
    chorus: Chorus, env: str, token: str, code: int
) -> None:
    fields = ("--name", "n", "--slug", "s", "--phone-number-id", "1", "--access-token", "12345678")
    result = await chorus("add", *fields, "--verify-token", token, APP_ENV=env)
    assert result.exit_code == code, result.output
    if code:
        assert "verify_token is " in result.stderr
        assert token not in result.stderr
        assert "no accounts" in (await chorus("list")).stdout


async def test_a_profile_is_shown_and_changed_in_parts(
    chorus: Chorus, bakery: Account, store: PostgresStore, tmp_path: Path
) -> None:
    (tmp_path / "menu.txt").write_text("Croissant 1.20 €\n", encoding="utf-8")
    (tmp_path / "profile.json").write_text(json.dumps({"business_name": "Levain", "temperature": 0.5}))
    changed = await chorus(
        "profile", "levain", "--file", "profile.json", "knowledge_base=@menu.txt", "description=a=b",
        "max_output_tokens=500", "resend_ambiguous=true", 'custom_fields={"wifi": "yes"}', "hours=42",
    )  # fmt: skip
    assert changed.exit_code == 0, changed.output
    profile = await store.get_profile(bakery.id)
    assert profile is not None
    assert (profile.business_name, profile.temperature, profile.knowledge_base, profile.description) == (
        "Levain", 0.5, "Croissant 1.20 €\n", "a=b",
    )  # fmt: skip
    assert (profile.max_output_tokens, profile.resend_ambiguous, profile.hours) == (500, True, "42")
    assert profile.custom_fields == {"wifi": "yes"}
    shown = json.loads((await chorus("profile", "levain", "--json")).stdout)
    assert (shown["hours"], shown["account_id"]) == ("42", bakery.id)
    assert (await chorus("profile", "levain", "--unset", "temperature")).exit_code == 0
    assert json.loads((await chorus("profile", "levain", "--json")).stdout)["temperature"] is None
    from_stdin = await chorus("profile", "levain", "--file", "-", typed='{"hours": "8-12"}')
    assert "8-12" in from_stdin.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense=1"], "nonsense"), (["temperature=hot"], "temperature"), (["temperature"], "has no '='"),
        (["hours=@no-such-file"], "no-such-file"), (["--file", "no-such-file"], "no-such-file"),
        (["custom_fields=[1]"], "custom_fields"), (["--file", "."], "directory"), (["account_id=x"], "account_id"),
        (["fallback_text="], "fallback_text"), (["--unset", "nonsense"], "nonsense"),
    ],
)  # fmt: skip
async def test_a_profile_that_is_none_is_refused_by_name(
    chorus: Chorus, bakery: Account, store: PostgresStore, arguments: list[str], said: str
) -> None:
    before = await store.get_profile(bakery.id)
    result = await chorus("profile", "levain", *arguments)
    assert (result.exit_code, said in result.stderr.lower()) == (2, True), result.output
    assert await store.get_profile(bakery.id) == before


async def test_meta_is_asked_about_an_account_and_its_answer_told_in_words_and_kept(
    chorus: Chorus, bakery: Account, store: PostgresStore
) -> None:
    good = await chorus("check")
    assert good.exit_code == 0, good.output
    assert good.stdout.startswith("ok    levain: the token works for 33612345678 (Sandbox), quality GREEN")
    assert (await store.account_health(bakery.id)).verdict == "healthy"
    await service(store, OLD).update(bakery.id, {"access_token": "another-token"})
    away = await chorus("check", WHATSAPP_BASE_URL="http://127.0.0.1:1")
    assert (away.exit_code, away.stdout) == (3, f"????  levain: could not be checked: {REFUSED}\n")
    bad = await chorus("check", "levain")
    assert bad.exit_code == 1
    assert "BAD   levain: the token is expired, revoked or wrong; give a new one [(#190) Access" in bad.stdout
    assert "another-token" not in bad.output
    assert (await store.account_health(bakery.id)).reason == "token_invalid"
    (row,) = json.loads((await chorus("check", "--json")).stdout)
    assert (row["ok"], row["verdict"], row["token"]["said"]["code"]) == (False, "unhealthy", 190)
    closed = await chorus("check", ENCRYPTION_KEY=NEW)
    assert "no ENCRYPTION_KEY opens the stored token" in closed.stdout
    await service(store, OLD).update(bakery.id, {"is_active": False})
    assert (await chorus("check")).stdout == "no active account\n"
    assert (await chorus("check", "--all")).exit_code == 1
    assert (await chorus("check", "--all", "levain")).exit_code == 2


async def test_a_token_is_replaced_from_stdin_once_meta_takes_it(
    chorus: Chorus, bakery: Account, store: PostgresStore
) -> None:
    await service(store, OLD).update(bakery.id, {"access_token": "a-token-of-yesterday"})
    refused = await chorus("rotate-token", "levain", typed="a-token-that-is-wrong\n")
    assert (refused.exit_code, "not stored" in refused.stderr) == (1, True)
    assert await stored_token(store, bakery, OLD) == "a-token-of-yesterday"
    away = await chorus("rotate-token", "levain", typed=f"{TOKEN}\n", WHATSAPP_BASE_URL="http://127.0.0.1:1")
    assert (away.exit_code, "connection refused" in away.stderr) == (3, True)
    taken = await chorus("rotate-token", "levain", typed=f"  {TOKEN} \n")
    assert (taken.exit_code, taken.stdout) == (0, "levain: the new token is in use\n"), taken.output
    assert await stored_token(store, bakery, OLD) == TOKEN
    unchecked = await chorus("rotate-token", "levain", "--unchecked", typed="a-token-of-tomorrow\n")
    assert unchecked.exit_code == 0
    assert await stored_token(store, bakery, OLD) == "a-token-of-tomorrow"
    for wrong in ("", "# comment\n", "two words of it\n", "short\n"):
        result = await chorus("rotate-token", "levain", typed=wrong)
        assert (result.exit_code, "access_token" in result.stderr) == (2, True)


async def test_a_changed_token_is_forgotten_by_the_replicas_at_once(
    chorus: Chorus, bakery: Account, store: PostgresStore, valkey_url: str, cache_timings: CacheTimings
) -> None:
    replica = Cache(timings=cache_timings)
    async with join_fleet(replica, valkey_url, namespace="chorus"):

        async def token() -> str:
            found = await replica.get_or_fetch(
                f"account:id:{bakery.id}", store.get_account, bakery.id, ttl_seconds=300, type=Account
            )
            assert found is not None
            return str(found.access_token)

        before = await token()
        done = await chorus("rotate-token", "levain", "--unchecked", typed="a-token-of-it\n", REDIS_URL=valkey_url)
        assert done.exit_code == 0, done.output
        after = await token()
        assert after != before
        done = await chorus("rotate-keys", REDIS_URL=valkey_url, ENCRYPTION_KEY=f"{NEW},{OLD}")
        assert done.exit_code == 0, done.output
        assert TokenCipher([NEW]).decrypt(await token()) == "a-token-of-it"


async def test_an_old_key_is_retired_step_by_step_while_two_replicas_run(
    chorus: Chorus, bakery: Account, store: PostgresStore
) -> None:
    """docs/operations.md, "Rotating ENCRYPTION_KEY". At each step one replica has the keys of before and one those of
    after; whatever one of them writes, the other one must be able to read."""
    tokens = {bakery.id: TOKEN}
    for number, replicas in enumerate([((OLD,), (OLD, NEW)), ((OLD, NEW), (NEW, OLD)), ((NEW, OLD), (NEW,))]):
        if number == 2:  # every replica has the new key first: now the stored tokens follow
            done = await chorus("rotate-keys", ENCRYPTION_KEY=f"{NEW},{OLD}")
            assert done.stdout == "4 tokens encrypted anew, 1 already were with the first key\n", done.output
            again = await chorus("rotate-keys", ENCRYPTION_KEY=f"{NEW},{OLD}")
            assert again.stdout == "0 tokens encrypted anew, 5 already were with the first key\n"
        for index, writing in enumerate(replicas):
            name = f"step-{number}-{index}"
            fields = ACCOUNT | {"slug": name, "phone_number_id": f"{number}{index}"}
            written = await service(store, *writing).create(OPERATOR, access_token=f"token-{name}", **fields)
            tokens[written.id] = f"token-{name}"
        for account in await store.list_accounts(user_id=None):
            for reading in replicas:
                assert TokenCipher(reading).decrypt(account.access_token) == tokens[account.id]
    assert len(tokens) == 7
    with pytest.raises(SecretError):
        await stored_token(store, bakery, OLD)


async def test_a_token_that_no_key_opens_is_named_and_left_alone(
    chorus: Chorus, bakery: Account, store: PostgresStore
) -> None:
    lost = await service(store, LOST).create(
        OPERATOR, access_token="x" * 9, **ACCOUNT | {"slug": "lost", "phone_number_id": "7"}
    )
    done = await chorus("rotate-keys", ENCRYPTION_KEY=f"{NEW},{OLD}")
    assert done.exit_code == 1
    assert done.stdout == "1 tokens encrypted anew, 0 already were with the first key\n"
    assert done.stderr == "chorus: no ENCRYPTION_KEY opens the token of lost; it stays as it is\n"
    assert await stored_token(store, lost, LOST) == "x" * 9


async def test_the_secrets_of_webhooks_follow_the_new_key_too(
    chorus: Chorus, bakery: Account, store: PostgresStore
) -> None:
    old, new = TokenCipher([OLD]), TokenCipher([NEW])

    async def listen(cipher: TokenCipher, secret: str) -> Endpoint:
        return await store.create_endpoint(
            bakery.id, url="https://crm.example/", events=["message.sent"], secret=cipher.encrypt(secret), most=5
        )

    kept, lost = await listen(old, "one"), await listen(TokenCipher([LOST]), "lost")
    rotated = {"secret": old.encrypt("two"), "overlap_seconds": 3600}
    await store.update_endpoint(bakery.id, kept.id, rotated)
    done = await chorus("rotate-keys", "--json", ENCRYPTION_KEY=f"{NEW},{OLD}")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["webhook_secrets"] == {"rotated": 2, "unreadable": 1}
    assert done.stderr == "chorus: no ENCRYPTION_KEY opens 1 secrets of webhooks; they stay as they are\n"
    found = await store.get_endpoint(bakery.id, kept.id)
    assert found is not None
    assert [new.decrypt(stored) for stored in found.signing_secrets(datetime.now(UTC))] == ["two", "one"]
    again = await chorus("rotate-keys", "--json", ENCRYPTION_KEY=f"{NEW},{OLD}")
    assert json.loads(again.stdout)["webhook_secrets"] == {"rotated": 0, "unreadable": 1}
    await store.delete_endpoint(bakery.id, lost.id)
    assert (await chorus("rotate-keys", ENCRYPTION_KEY=NEW)).exit_code == 0


class ChangesAtTheWorstMoment(PostgresStore):
    """Between what `rotate_keys` read and what it writes, a replica that was not restarted yet stores a new token."""

    changes: list[str]
    other: AccountService

    async def replace_access_token(self, account_id: str, *, expected: str, access_token: str) -> bool:
        if self.changes:
            await self.other.update(account_id, {"access_token": self.changes.pop(0)})
        return await super().replace_access_token(account_id, expected=expected, access_token=access_token)


async def test_a_token_that_changes_during_the_rotation_is_not_lost(
    store: PostgresStore, store_url: str, bakery: Account
) -> None:
    racing = ChangesAtTheWorstMoment(store_url)
    racing.other = service(store, OLD, NEW)
    racing.changes = ["the-second-token", "the-third-token"]
    try:
        done = await service(racing, NEW, OLD).rotate_keys()
    finally:
        await racing.aclose()
    assert done.rotated == ("levain",)
    assert await stored_token(store, bakery, NEW) == "the-third-token"


async def test_an_account_that_appears_during_the_rotation_is_encrypted_too(
    store: PostgresStore, store_url: str, bakery: Account
) -> None:
    class AppearsMeanwhile(PostgresStore):
        async def replace_access_token(self, account_id: str, **more: Any) -> bool:
            if account_id == bakery.id:
                late = ACCOUNT | {"slug": "late", "phone_number_id": "8"}
                await service(store, OLD, NEW).create(OPERATOR, access_token="late-token", **late)
            return await super().replace_access_token(account_id, **more)

    racing = AppearsMeanwhile(store_url)
    try:
        assert (await service(racing, NEW, OLD).rotate_keys()).rotated == ("levain", "late")
    finally:
        await racing.aclose()


async def test_members_are_listed_set_and_removed(chorus: Chorus, bakery: Account) -> None:
    assert "no members" in (await chorus("member", "list", "levain")).stdout
    assert (await chorus("member", "set", "levain", "user-1", "agent")).stdout == "user-1: agent\n"
    assert (await chorus("member", "set", "levain", "user-1", "owner")).stdout == "user-1: owner\n"
    (row,) = json.loads((await chorus("member", "list", NUMBER, "--json")).stdout)
    assert (row["user_id"], row["role"]) == ("user-1", "owner")
    assert (await chorus("member", "remove", "levain", "user-1")).exit_code == 0
    missing = await chorus("member", "remove", "levain", "user-1")
    assert (missing.exit_code, "no such member" in missing.stderr) == (1, True)
    assert (await chorus("member", "set", "levain", "user-1", "king")).exit_code == 2


@pytest.mark.parametrize("role", ["owner", "viewer"])
async def test_a_member_that_no_access_token_can_name_is_not_stored(chorus: Chorus, bakery: Account, role: str) -> None:
    for user in ("", "   ", "a b", "ada\n", "é", ".ada", "a" * 256):
        result = await chorus("member", "set", "levain", user, role)
        assert (result.exit_code, "a user id" in result.stderr, result.stderr.count("\n")) == (2, True, 1), repr(user)
    assert "no members" in (await chorus("member", "list", "levain")).stdout


async def test_a_key_is_printed_once_listed_and_revoked(chorus: Chorus, store: PostgresStore, bakery: Account) -> None:
    made = await chorus("key", "create", "levain", "--name", "our CRM", "--role", "agent")
    secret = made.stdout.strip()
    assert made.exit_code == 0
    assert is_token(secret, "chorus_")
    (stored,) = await store.list_api_keys(bakery.id)
    assert (stored.digest, stored.role, stored.created_by) == (digest_of(secret), Role.AGENT, "operator")
    listed = await chorus("key", "list", "levain")
    assert f"{stored.id}  agent   …{secret[-4:]}" in listed.stdout
    assert secret not in listed.stdout
    as_json = json.loads((await chorus("key", "list", "levain", "--json")).stdout)
    assert [(each["id"], each["name"]) for each in as_json] == [(stored.id, "our CRM")]
    assert stored.digest not in listed.stdout + json.dumps(as_json)
    assert (await chorus("key", "revoke", "levain", stored.id)).exit_code == 0
    assert (await chorus("key", "list", "levain")).stdout == "no API keys\n"
    gone = await chorus("key", "revoke", "levain", stored.id)
    assert (gone.exit_code, gone.stderr) == (1, "chorus: no such api key\n")


async def test_an_invitation_is_printed_once_and_the_trail_says_who(
    chorus: Chorus, store: PostgresStore, bakery: Account
) -> None:
    token = (await chorus("invite", "levain", "agent")).stdout.strip()
    assert (await store.accept_invitation(digest_of(token), "bob")).role is Role.AGENT
    lines = (await chorus("audit", "levain")).stdout.splitlines()
    assert len(lines) == 4
    assert " operator " in lines[2]
    assert "(cli): invitation.created " in lines[2]
    assert token not in "".join(lines)
    everything = json.loads((await chorus("audit", "--json")).stdout)
    assert [entry["action"] for entry in everything] == [
        "member.created", "invitation.changed", "invitation.created", "account.created",
    ]  # fmt: skip
