"""A Ray cluster of several nodes on this machine: each of its own processes, killed at will."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from conftest import environment, free_ports

START_S = 300.0


@dataclass
class Node:
    """`ray start --block` and all that it started."""

    process: subprocess.Popen[bytes]
    log: Path
    id: str = ""

    def kill(self) -> None:
        """Take the machine away: nothing of it says goodbye."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            for process in [parent, *parent.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()


@dataclass
class RayNodes:
    """A head without CPUs, where drivers run, and nodes that come and go."""

    folder: Path
    ports: list[int]
    nodes: list[Node] = field(default_factory=list)

    @property
    def address(self) -> str:
        """What drivers join."""
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted."""
        return f"http://127.0.0.1:{self.ports[1]}"

    def start_head(self, *options: str) -> Node:
        gcs, dashboard, client = self.ports[:3]
        return self._start(
            "--head",
            f"--port={gcs}",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}",
            "--num-cpus=0",
            *options,
        )

    def add(self, cpus: float = 1) -> Node:
        """Start a node and wait until the cluster has it."""
        before = self.alive()
        node = self._start(f"--address={self.address}", f"--num-cpus={cpus}")
        give_up = time.monotonic() + START_S
        while not (new := self.alive() - before):
            assert node.process.poll() is None, node.log.read_text()[-2000:]
            assert time.monotonic() < give_up, "the node does not come up"
            time.sleep(0.2)
        node.id = new.pop()
        return node

    def alive(self) -> set[str]:
        """Return the ids of the nodes that the cluster counts as alive."""
        from ray._raylet import GcsClient

        found = GcsClient(address=self.address).get_all_node_info(timeout=60)
        return {str(node_id.hex()) for node_id, info in found.items() if info.state == 0}

    def _start(self, *options: str) -> Node:
        log = self.folder / f"node-{len(self.nodes)}.txt"
        command = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--block",
            "--node-ip-address=127.0.0.1",
            f"--dashboard-agent-listen-port={any_port()}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
            # As on machines of their own: in a common folder, one node's agent removes the code
            # that a driver of the other imports, to unpack it again.
            f"--temp-dir={self.folder}/{len(self.nodes)}",
            *options,
        ]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self.nodes.append(Node(process, log))
        return self.nodes[-1]

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.kill()


def any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def version_of(dashboard: str, token: str) -> str | None:
    """Return what a dashboard answers, None if nobody does."""
    request = urllib.request.Request(
        f"{dashboard}/api/version", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


@contextlib.contextmanager
def ray_nodes(
    *cpus: float,
    head: tuple[str, ...] = (),
    ports: list[int] | None = None,
    **variables: str,
) -> Iterator[RayNodes]:
    """Start a cluster with token authentication; a node for each number of CPUs.

    Drivers of this process, and its children, join it for as long as the context lasts.
    """
    folder = Path(tempfile.mkdtemp(prefix="clf-"))  # short: sockets lie below it
    token = folder / "token"
    token.write_text("a" * 64)
    token.chmod(0o600)
    cluster = RayNodes(folder, ports or free_ports(3))
    values: dict[str, Any] = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ADDRESS": None,
        "RAY_OVERRIDE_RESOURCES": None,
        # Jobs run the `python` of their node: nodes start as from an activated environment.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        # A node that is gone counts as gone after 5 s, not 30.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "10000",
        "RAY_health_check_failure_threshold": "5",
        **variables,
    }
    try:
        with environment(values):
            reread()
            _wait_for_head(cluster, cluster.start_head(*head), token.read_text())
            for number in cpus:
                cluster.add(number)
            with environment({"RAY_ADDRESS": cluster.address}):
                yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
        reread()


def reread() -> None:
    """Let Ray look again at what it read once: its variables, and its token."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _wait_for_head(cluster: RayNodes, head: Node, token: str) -> None:
    give_up = time.monotonic() + START_S
    while version_of(cluster.dashboard, token) is None or not cluster.alive():
        assert head.process.poll() is None, head.log.read_text()[-2000:]
        assert time.monotonic() < give_up, head.log.read_text()[-2000:]
        time.sleep(0.2)
