"""More than one Redis on loopback: a cluster of three primaries, and a primary with a replica and three sentinels."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.core.redis.url import RedisUrl, Topology
from app.localhost.processes import ChildProcess, free_port
from tests.support.tls import TlsFronts

SLOTS = 16384
PASSWORD = "of-the-test-suite"
SERVICE = "chorus"
COMMON = f"bind 127.0.0.1\nprotected-mode yes\nrequirepass {PASSWORD}\n"
DATA = f'masterauth {PASSWORD}\nappendonly yes\nsave ""\nmaxmemory-policy noeviction\nrepl-diskless-sync-delay 0\n'


def client(port: int, *, password: str | None = PASSWORD) -> redis.Redis:
    return redis.Redis(port=port, password=password, socket_timeout=2, retry=Retry(NoBackoff(), 0))


def wait_until(is_so: Callable[[], bool], what: str, *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(redis.RedisError):
            if is_so():
                return
        time.sleep(0.02)
    raise TimeoutError(what)


def replicated(primary: redis.Redis) -> None:
    """Returns when a replica has everything."""
    primary.publish("replicated", "")  # WAIT is about what this very connection has written
    assert primary.wait(1, 5000) == 1


def servers_of(url: str) -> list[redis.Redis]:
    """The one server, or each of a cluster's that the URL names."""
    where = RedisUrl.parse(url)
    if where.topology is Topology.SINGLE:
        return [redis.Redis.from_url(url)]
    return [client(port) for _, port in where.hosts]


def server_of(url: str, key: str) -> redis.Redis:
    """The one that holds `key`."""
    for server in servers_of(url):
        with contextlib.suppress(redis.exceptions.MovedError):
            server.exists(key)
            return server
        server.close()
    raise LookupError(key)


class Node:
    """One server process, started by `start`, on a port of its own."""

    def __init__(
        self,
        program: Path,
        folder: Path,
        config: str,
        *,
        arguments: tuple[str, ...] = (),
        front: Callable[[int], int] | None = None,
        announce: str = "",
    ) -> None:
        """`front` puts something before a port and says where clients find it; `announce` is the setting that makes
        the server tell its clients so."""
        self.port = free_port()
        self.public_port = front(self.port) if front else self.port
        if announce:
            config += f"{announce} {self.public_port}\n"
        folder.mkdir()
        file = folder / "server.conf"
        file.write_text(f"port {self.port}\ndir {folder}\n{COMMON}{config}", encoding="utf-8")
        self._process = ChildProcess(
            f"valkey {self.port}",
            [program, file, *arguments],
            log_file=folder / "server.log",
            pid_file=folder / "server.pid",
            cwd=folder,
        )

    def start(self) -> None:
        """Idempotent."""
        if not self._process.running:
            self._process.start()
        with client(self.port) as connection:
            wait_until(lambda: not self._process.running or bool(connection.ping()), f"{self._process.name} is silent")
        if not self._process.running:
            raise RuntimeError(f"{self._process.name} ended: {self._process.log_tail()}")

    def kill(self) -> None:
        self._process.kill()

    def pause(self) -> None:
        self._process.pause()

    def resume(self) -> None:
        self._process.resume()


def _url(kind: str, nodes: list[Node], fronts: TlsFronts | None, *, path: str = "", **options: object) -> str:
    scheme = "rediss" if fronts else "redis"
    if fronts:
        options["ssl_ca_certs"] = fronts.authority
    hosts = ",".join(f"127.0.0.1:{node.public_port}" for node in nodes)
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"{scheme}+{kind}://:{PASSWORD}@{hosts}{path}{'?' if query else ''}{query}"


@dataclass
class Cluster:
    nodes: list[Node]
    fronts: TlsFronts | None = None

    @property
    def url(self) -> str:
        return _url("cluster", self.nodes, self.fronts)

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        self.until_formed()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def pause(self) -> None:
        for node in self.nodes:
            node.pause()

    def resume(self) -> None:
        for node in self.nodes:
            node.resume()

    def until_formed(self) -> None:
        """Every primary serves every slot or knows who does."""
        for node in self.nodes:
            with client(node.port) as connection:

                def knows_all(connection: redis.Redis = connection) -> bool:
                    info: dict[str, str] = connection.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]  # redis-py declares no type
                    return info["cluster_state"] == "ok" and int(info["cluster_size"]) == len(self.nodes)

                wait_until(knows_all, "the cluster did not form")

    def empty(self) -> None:
        for node in self.nodes:
            with client(node.port) as connection:
                connection.flushall()
                connection.script_flush()


@contextmanager
def running_cluster(
    program: Path, folder: Path, *, primaries: int = 3, fronts: TlsFronts | None = None
) -> Iterator[Cluster]:
    public: dict[str, Any] = {"front": fronts.before, "announce": "cluster-announce-port"} if fronts else {}
    config = f"cluster-enabled yes\n{DATA}"
    with ExitStack() as stack:
        # Not the default, 10,000 above the other: there the system finds ports for outgoing connections.
        buses = [free_port() for _ in range(primaries)]
        nodes = [
            Node(program, folder / f"primary-{n}", f"{config}cluster-port {bus}\n", **public)
            for n, bus in enumerate(buses)
        ]
        for node in nodes:
            stack.callback(node.kill)
            node.start()
        part = SLOTS // primaries
        for n, node in enumerate(nodes):
            with client(node.port) as connection:
                last = SLOTS - 1 if n == primaries - 1 else (n + 1) * part - 1
                connection.execute_command("CLUSTER", "ADDSLOTSRANGE", n * part, last)
                # Different epochs from the start; else they are settled by collisions, which takes seconds.
                connection.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
                connection.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, buses[0])
        cluster = Cluster(nodes, fronts)
        cluster.until_formed()
        yield cluster


@dataclass
class Guarded:
    """Sentinel's setting. `fail_over` ends when the replica has taken the primary's place."""

    primary: Node
    replica: Node
    sentinels: list[Node]
    fronts: TlsFronts | None = None

    @property
    def url(self) -> str:
        return _url("sentinel", self.sentinels, self.fronts, path=f"/{SERVICE}/0", sentinel_password=PASSWORD)

    def replicate(self) -> None:
        """Returns when the replica has everything. Redis' replication is asynchronous: a failover loses the rest."""
        with client(self.primary.port) as connection:
            replicated(connection)

    def hold_the_replica_back(self) -> None:
        """From now on it receives nothing, until `fail_over`."""
        self.replica.pause()
        with client(self.primary.port) as connection:
            connection.client_kill_filter(_type="replica")

    def fail_over(self, *, freeze: bool = False) -> float:
        """Kills the primary, or freezes it: then `primary.resume()` brings one back that takes itself for the primary
        until a sentinel corrects it. Seconds until the sentinels name the other one."""
        started = time.monotonic()
        if freeze:
            self.primary.pause()
        else:
            self.primary.kill()
        self.replica.resume()
        wait_until(lambda: self._named() == self.replica.public_port, "no failover")
        with client(self.replica.port) as connection:
            wait_until(lambda: connection.role()[0] == b"master", "the replica was not promoted")
        return time.monotonic() - started

    def fail_over_in_good_order(self) -> None:
        """No process is killed: as before maintenance. The old primary takes writes until a sentinel corrects it."""
        with client(self.sentinels[0].port) as connection:
            connection.execute_command("SENTINEL", "FAILOVER", SERVICE)
            wait_until(lambda: connection.sentinel_master(SERVICE)["port"] == self.replica.public_port, "no failover")

    def primary_is_deluded(self) -> bool:
        """The one that was replaced still takes writes."""
        try:
            with client(self.primary.port) as connection:
                return bool(connection.role()[0] == b"master")
        except redis.ConnectionError:
            return False  # the sentinel that corrects it closes its connections

    def _named(self) -> int:
        with client(self.sentinels[0].port) as connection:
            host = connection.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(host[1])


@contextmanager
def running_sentinels(program: Path, folder: Path, *, fronts: TlsFronts | None = None) -> Iterator[Guarded]:
    data: dict[str, Any] = {}
    watched: dict[str, Any] = {"arguments": ("--sentinel",)}
    if fronts:
        data |= {"front": partial(fronts.before, clear_text=True), "announce": "replica-announce-port"}
        watched |= {"front": fronts.before}
    with ExitStack() as stack:
        primary = Node(program, folder / "primary", DATA, **data)
        replica = Node(program, folder / "replica", f"{DATA}replicaof 127.0.0.1 {primary.public_port}\n", **data)
        for node in (primary, replica):
            stack.callback(node.kill)
            node.start()
        with client(primary.port) as connection:
            wait_until(lambda: connection.info("replication")["connected_slaves"] == 1, "no replica")
        watch = (
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.public_port} 2\n"
            f"sentinel auth-pass {SERVICE} {PASSWORD}\nsentinel sentinel-pass {PASSWORD}\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 5000\n"
        )
        sentinels = [Node(program, folder / f"sentinel-{n}", watch, **watched) for n in range(3)]
        for node in sentinels:
            stack.callback(node.kill)
            node.start()
        for node in sentinels:
            with client(node.port) as connection:

                def knows(connection: redis.Redis = connection) -> bool:
                    state: Any = connection.sentinel_master(SERVICE)
                    return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)

                wait_until(knows, "the sentinels do not know each other")
        yield Guarded(primary, replica, sentinels, fronts)
