"""Three Valkey primaries on loopback, joined to a cluster."""

from __future__ import annotations

import time
from contextlib import suppress

import redis
from redis.cluster import ClusterNode, RedisCluster

from app.sandbox.processes import ChildProcess, free_port
from app.sandbox.servers.location import Location

PRIMARIES = 3
SLOTS = 16384
READY_SECONDS = 30.0
CONFIG = """
bind 127.0.0.1
port {port}
cluster-enabled yes
cluster-port {bus}
cluster-config-file nodes-{port}.conf
cluster-node-timeout 2000
requirepass secret
save ""
"""


class Cluster:
    def __init__(self, location: Location) -> None:
        self._location = location
        self.nodes: dict[int, ChildProcess] = {}

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{port}" for port in self.nodes)
        return f"redis+cluster://:secret@{places}"

    def start(self) -> None:
        for _ in range(PRIMARIES):
            self._launch()
        clients = {port: redis.Redis(port=port, password="secret") for port in self.nodes}
        share = SLOTS // PRIMARIES + 1
        for number, (port, client) in enumerate(clients.items()):
            self._until(lambda client=client: client.ping())
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, min(SLOTS, (number + 1) * share) - 1)
            bus = self._buses[port]
            next(iter(clients.values())).execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        for client in clients.values():
            self._until(lambda client=client: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
            client.close()

    def flush(self) -> None:
        first = next(iter(self.nodes))
        with RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", first)], password="secret") as client:
            client.flushall(target_nodes="primaries")

    def stop(self) -> None:
        for process in self.nodes.values():
            process.stop()

    _buses: dict[int, int] = {}  # noqa: RUF012  one cluster a session

    def _launch(self) -> None:
        port, bus = free_port(), free_port()
        process = ChildProcess(
            f"Valkey cluster node {port}",
            [self._location.valkey_server, "-"],
            stdin=CONFIG.format(port=port, bus=bus).encode(),
            cwd=self._location.server_folder(f"cluster-{port}"),
            env={"LC_ALL": "C"},
            log_file=self._location.folder / f"cluster-{port}.log",
            pid_file=self._location.folder / f"cluster-{port}.pid",
            account=self._location.account,
        )
        process.start()
        self.nodes[port] = process
        self._buses[port] = bus

    def _until(self, happened: object) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            with suppress(redis.RedisError, OSError):
                if happened():  # type: ignore[operator]
                    return
            time.sleep(0.02)
        raise AssertionError("the cluster did not form")
