"""What we use of Redis exists since 6.2. A table says so whatever server the tests have; the scripts are also loaded
into each server of another version that this machine has (tests/infra/test_redis_user.py runs a replica on them)."""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_sync

from app.localhost.processes import ChildProcess, free_port
from tests.support.redis_servers import HOW_TO_GET_ONE, SUPPORTED, server_of

CORE = Path(__file__).resolve().parents[2] / "backend" / "app" / "core"
SCRIPTS = sorted((CORE / "lua").glob("*.lua"))
MINIMUM = (6, 2)

OLD = """
    DECR DECRBY DEL EXISTS EXPIRE GET HDEL HEXISTS HGET HGETALL HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET HSET INCR INCRBY
    INFO LINDEX LLEN LPOP LPUSH LRANGE LREM LTRIM MGET PERSIST PEXPIRE PTTL PUBLISH RPOP RPUSH SADD SCARD SET SISMEMBER
    SMEMBERS SREM STRLEN TIME TTL TYPE ZADD ZCARD ZCOUNT ZINCRBY ZRANGE ZRANGEBYSCORE ZRANK ZREM ZREMRANGEBYRANK
    ZREMRANGEBYSCORE ZREVRANGE ZSCORE
"""
SINCE: dict[str, tuple[int, int]] = dict.fromkeys(re.findall(r"[A-Z]+", OLD), (2, 8)) | {
    "UNLINK": (4, 0), "XADD": (5, 0), "XDEL": (5, 0), "XLEN": (5, 0), "XRANGE": (5, 0), "XTRIM": (5, 0),
    "ZPOPMIN": (5, 0), "XREVRANGE": (5, 0), "ZMSCORE": (6, 2), "LPOS": (6, 0), "GETDEL": (6, 2),
}  # fmt: skip
"""Redis' commands reference, "Available since". A command that is not here is new to us: look its version up."""

TOO_NEW = {
    "SET with NX and GET": (r'"SET"[^)]*"NX"[^)]*"GET"|"SET"[^)]*"GET"[^)]*"NX"', (7, 0)),
    "EXPIRE with NX, XX, GT or LT": (r'"P?EXPIRE(?:AT)?"[^)]*"(?:NX|XX|GT|LT)"', (7, 0)),
    "ZADD with GT or LT": (r'"ZADD"[^)]*"(?:GT|LT)"', (6, 2)),
    "ZRANGE with REV, BYSCORE or LIMIT": (r'"ZRANGE"[^)]*"(?:REV|BYSCORE|BYLEX)"', (6, 2)),
    "XADD with MINID or NOMKSTREAM": (r'"XADD"[^)]*"(?:MINID|NOMKSTREAM)"', (6, 2)),
    "LPOP and RPOP with a count": (r'"[LR]POP",[^,)]*,', (6, 2)),
    "functions, WAITAOF, hash fields that expire": (
        r'"(?:FCALL|WAITAOF|HEXPIRE|HPEXPIRE|LMPOP|ZMPOP|SINTERCARD)"',
        (7, 0),
    ),
}
"""Options by the version that brought them, as a pattern over a script's text."""

ASYNC_CALLS = re.compile(
    r"\.(waitaof|lmpop|blmpop|zmpop|bzmpop|sintercard|eval_ro|evalsha_ro|fcall|expiretime|hexpire|client_no_evict|"
    r"client_no_touch|cluster_shards|spublish|ssubscribe|latency_histogram)\("
)
"""Methods of redis-py whose commands came with 7.0 or later."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_uses_nothing_that_is_newer_than_the_oldest_version(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    for command in re.findall(r"""redis\.p?call\(\s*["']([A-Za-z]+)["']""", text):
        assert command.upper() in SINCE, f"{command}: look up since when it exists, and add it to SINCE"
        assert SINCE[command.upper()] <= MINIMUM, command
    for what, (pattern, since) in TOO_NEW.items():
        assert since <= MINIMUM or not re.search(pattern, text), what
    assert "redis.setresp" not in text
    assert "redis.REDIS_VERSION" not in text, "since 7.0"


def test_the_code_calls_no_command_that_is_newer() -> None:
    found = [
        (str(path.relative_to(CORE)), match[1])
        for path in sorted(CORE.rglob("*.py"))
        for match in ASYNC_CALLS.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.fixture(scope="module", params=SUPPORTED)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Its URL."""
    program = server_of(request.param)
    if program is None:
        pytest.skip(f"no {request.param} here: {HOW_TO_GET_ONE}")
    folder, port, password = Path(tempfile.mkdtemp(prefix="chorus-redis-")), free_port(), secrets.token_hex(16)
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", password, "--save", "", "--dir", folder]
    process = ChildProcess(
        request.param, [program, *arguments], log_file=folder / "log", pid_file=folder / "pid", cwd=folder
    )
    process.start()
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    try:
        with redis_sync.Redis.from_url(url, socket_timeout=5) as client:
            for _ in range(500):
                try:
                    client.ping()
                    break
                except redis_sync.ConnectionError:
                    assert process.running, process.log_tail()
                    time.sleep(0.02)
        yield url
    finally:
        process.kill()


def test_every_script_compiles_on_every_version(server: str) -> None:
    prelude = (CORE / "lua" / "breaker_state.lua").read_text(encoding="utf-8")
    with redis_sync.Redis.from_url(server, socket_timeout=5) as client:
        for script in SCRIPTS:
            text = script.read_text(encoding="utf-8")
            client.script_load(f"{prelude}\n{text}" if script.stem.startswith("breaker_") else text)


def test_the_life_of_a_queue_ends_with_its_data_on_every_version(server: str) -> None:
    source = (CORE / "lua" / "queue_life.lua").read_text(encoding="utf-8")
    with redis_sync.Redis.from_url(server, socket_timeout=5) as client:
        life = client.eval(source, 1, "chorus:{q0}:")
        assert isinstance(life, bytes)
        replid = client.info("replication")["master_replid"]
        assert life.decode().endswith(f"-{replid}")
        assert client.eval(source, 1, "chorus:{q0}:") == life
        client.flushall()
        assert client.eval(source, 1, "chorus:{q0}:") != life
