"""SIGKILL a whole node, start it again: the run goes on in it and ends the same.

A node is an agent of torchrun with its process, in a process group of its own; two of
them train together. The store in which they meet is kept by a third, as clusters keep
it apart from the machines that may be lost. Where this machine lets us (Linux, root,
`ip`), each node has a network namespace of its own, and is lost with its link: nobody
tells the other that it is gone.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from reliability import tables
from reliability.restarts import NUM_EPOCHS, ROOT, STRATEGIES

PATIENCE_SECONDS = 240
SECONDS_AWAY = 2.0
# Nobody keeps the store but this program; a node is missed after three seconds.
CONFIGURATION = "is_host=false,keep_alive_interval=1"


class Training(NamedTuple):
    """What is trained."""

    strategy: str
    num_epochs: int = NUM_EPOCHS


@dataclass
class Node:
    """A machine of the run, as far as one machine can show it.

    Attributes:
        number: 0 or 1.
        address: Where the other reaches it.
        namespace: Its network namespace; empty for the machine's own network.
        gate: Where it reaches the store through.
        store: Address of the store.
        printed: Where its output goes.
    """

    number: int
    address: str
    namespace: str = ""
    gate: str = ""
    store: str = ""
    printed: list[Path] = field(default_factory=list)
    agent: subprocess.Popen[bytes] | None = None

    def start(self, training: Training, folder: Path, endpoint: str) -> None:
        """Let an agent of torchrun start the node's process."""
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        command += ["--rdzv-backend", "c10d", "--rdzv-id", "nodes"]
        command += ["--rdzv-endpoint", endpoint, "--rdzv-conf", CONFIGURATION]
        command += ["--local-addr", self.address, "--max-restarts", "9"]
        command += ["--nproc-per-node", "1", "-m", "callboard", "fit"]
        command += [
            "reliability.restarted:learner",
            "--epochs",
            str(training.num_epochs),
        ]
        command += ["--resume", "auto"]
        command += ["--with", f"distributed:strategy={training.strategy}"]
        command += ["--with", "checkpoint:every=7step"]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), os.environ.get("PYTHONPATH", "")]
            ),
            "OMP_NUM_THREADS": "1",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        if self.namespace:
            command = ["ip", "netns", "exec", self.namespace, *command]
            environment["GLOO_SOCKET_IFNAME"] = "peer"
        self.printed.append(folder / f"node-{self.number}-{len(self.printed)}.log")
        with self.printed[-1].open("wb") as output:
            self.agent = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def lose(self) -> None:
        """End all of its processes at once, its link first."""
        for device in self.links():
            run("ip", "-n", self.namespace, "link", "set", device, "down")
        self.kill()

    def regain(self, training: Training, folder: Path, endpoint: str) -> None:
        """Let it come back, as a machine that knows nothing of before."""
        for device in self.links():
            run("ip", "-n", self.namespace, "link", "set", device, "up")
        if self.namespace:  # a route is lost with its link
            reach(self.namespace, self.store, self.gate)
        self.start(training, folder, endpoint)

    def links(self) -> tuple[str, ...]:
        """The devices of a network of its own."""
        return ("peer", "host") if self.namespace else ()

    def kill(self) -> None:
        """End the agent and its process, which has a process group of its own."""
        if self.agent is None:
            return
        for process in (self.agent.pid, *descendants(self.agent.pid)):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.agent.wait()

    def text(self) -> str:
        """All that it has printed."""
        return "".join(file.read_text(errors="replace") for file in self.printed)


def descendants(process: int) -> list[int]:
    """All processes that a process has started, and those that they have."""
    children: list[int] = []
    with suppress(OSError):
        listed = Path(f"/proc/{process}/task/{process}/children").read_text()
        children = [int(child) for child in listed.split()]
    return children + [one for child in children for one in descendants(child)]


def run(*command: str) -> None:
    """Run a command that must go well."""
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def two_nodes() -> Iterator[tuple[str, list[Node]]]:
    """The address of the store and two nodes, in networks of their own if possible."""
    if shutil.which("ip") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield "localhost", [Node(n, "localhost") for n in range(2)]
        return
    network = Network()
    try:
        network.make()
    except subprocess.CalledProcessError as error:
        print(f"no namespaces: {error.stderr.decode().strip()}", file=sys.stderr)
        network.take_away()
        yield "localhost", [Node(n, "localhost") for n in range(2)]
        return
    try:
        yield network.host, network.nodes()
    finally:
        network.take_away()


class Network:
    """Two namespaces, with a link to each other and one each to this machine.

    Nothing is forwarded, so that no firewall is in the way.
    """

    def __init__(self) -> None:
        number = os.getpid()
        start = f"10.213.{number % 256}"
        self.names = [f"callboard-{number}-{n}" for n in range(2)]
        self.outer = [f"cb{number}v{n}" for n in range(2)]
        self.host = f"{start}.1"
        self.gates = [f"{start}.1", f"{start}.5"]
        self.inner = [f"{start}.2", f"{start}.6"]
        self.peers = [f"{start}.9", f"{start}.10"]

    def nodes(self) -> list[Node]:
        """Those that live in it."""
        own = zip(self.peers, self.names, self.gates, strict=True)
        return [Node(number, *each, self.host) for number, each in enumerate(own)]

    def make(self) -> None:
        """Make all of it.

        Raises:
            CalledProcessError: This machine does not let us.
        """
        first, second = self.names
        for number, name in enumerate(self.names):
            outer, gate = self.outer[number], self.gates[number]
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            pair = ("type", "veth", "peer", "name", "host", "netns", name)
            run("ip", "link", "add", outer, *pair)
            run("ip", "addr", "add", f"{gate}/30", "dev", outer)
            run("ip", "link", "set", outer, "up")
            give_address(name, "host", self.inner[number])
            reach(name, self.host, gate)
        pair = ("type", "veth", "peer", "name", "peer", "netns", second)
        run("ip", "-n", first, "link", "add", "peer", *pair)
        for name, address in zip(self.names, self.peers, strict=True):
            give_address(name, "peer", address)

    def take_away(self) -> None:
        """Leave nothing of it behind; the links first, which would linger."""
        for kind, names in (("link", self.outer), ("netns", self.names)):
            for name in names:
                gone = ("ip", kind, "del", name)
                subprocess.run(gone, check=False, capture_output=True)


def reach(namespace: str, store: str, gate: str) -> None:
    """Let a namespace reach the store, and nothing else outside."""
    if store != gate:
        run("ip", "-n", namespace, "route", "replace", store, "via", gate)


def give_address(namespace: str, device: str, address: str) -> None:
    """Give a device an address, and switch it on."""
    run("ip", "-n", namespace, "addr", "add", f"{address}/30", "dev", device)
    run("ip", "-n", namespace, "link", "set", device, "up")


def train(training: Training, lost: tuple[int, float] | None) -> str:
    """Train, lose a node and regain it; what came of it, in a word.

    Args:
        training: What is trained.
        lost: Number of the node, and which part of the run is done by then.
    """
    with tempfile.TemporaryDirectory() as name, two_nodes() as (host, nodes):
        folder = Path(name)
        store = TCPStore(
            host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(hours=1)
        )
        endpoint = f"{host}:{store.port}"
        for node in nodes:
            node.start(training, folder, endpoint)
        ends = time.monotonic() + PATIENCE_SECONDS
        try:
            if lost is not None:
                number, part = lost
                while epochs_done(folder) < part * training.num_epochs:
                    if time.monotonic() > ends or is_over(nodes):
                        return "not lost"
                    time.sleep(0.02)
                nodes[number].lose()
                time.sleep(SECONDS_AWAY)
                nodes[number].regain(training, folder, endpoint)
            while not is_over(nodes) and time.monotonic() < ends:
                time.sleep(0.1)
        finally:
            is_late = not is_over(nodes)
            for node in nodes:
                node.kill()
        found = re.findall(r"weights (\w+)", nodes[0].text() + nodes[1].text())
        if is_late or not found:
            print(nodes[0].text()[-2000:], nodes[1].text()[-2000:], file=sys.stderr)
        return "hangs" if is_late else found[-1] if found else "failed"


def epochs_done(folder: Path) -> int:
    """How far the run is, by the names of its checkpoints."""
    names = [path.name for path in folder.glob("checkpoints/0*")]
    return max((int(name.split("-")[2]) for name in names), default=0)


def is_over(nodes: list[Node]) -> bool:
    """Whether no agent runs any more."""
    return all(n.agent is None or n.agent.poll() is not None for n in nodes)


def main(num_losses: int, seed: int) -> int:
    """Lose nodes and print what became of the runs; the exit status."""
    chance, rows, num_wrong = random.Random(seed), [], 0
    started = time.monotonic()
    with two_nodes() as (_, nodes):
        network = "namespaces" if nodes[0].namespace else "one network"
    for strategy in STRATEGIES:
        straight = train(Training(strategy), None)
        ends = [
            train(Training(strategy), (number % 2, chance.uniform(0.05, 0.8)))
            for number in range(num_losses)
        ]
        wrong = [end for end in ends if end != straight]
        num_wrong += len(wrong)
        rows.append((strategy, len(ends), len(ends) - len(wrong), ", ".join(wrong)))
        print(f"{strategy}: {len(ends)} nodes lost", flush=True)
    tables.show(
        f"One of two nodes lost and regained ({network}), seed {seed}, "
        f"{time.monotonic() - started:.0f} s",
        ("strategy", "losses", "same weights", "others"),
        rows,
    )
    return int(num_wrong > 0)


if __name__ == "__main__":
    given = tables.arguments(__doc__ or "", count=4, seed=1)
    sys.exit(main(given.count, given.seed))
