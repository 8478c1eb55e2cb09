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

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from reliability import tables
from reliability.restarts import NUM_EPOCHS, ROOT, STRATEGIES

NETWORK = "10.213.77"
PATIENCE_SECONDS = 240
SECONDS_AWAY = 2.0


@dataclass
class Node:
    """A machine of the run, as far as one machine can show it.

    Attributes:
        number: 0 or 1.
        address: Where the other reaches it.
        namespace: Its network namespace; empty for the machine's own network.
        printed: Where its output goes.
    """

    number: int
    address: str
    namespace: str
    printed: list[Path] = field(default_factory=list)
    agent: subprocess.Popen[bytes] | None = None

    def start(self, strategy: str, folder: Path, endpoint: str) -> None:
        """Let an agent of torchrun start the node's process."""
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        command += ["--rdzv-backend", "c10d", "--rdzv-id", "nodes"]
        command += ["--rdzv-endpoint", endpoint, "--rdzv-conf", "is_host=false"]
        command += ["--local-addr", self.address, "--max-restarts", "9"]
        command += ["--nproc-per-node", "1", "-m", "callboard", "fit"]
        command += ["reliability.restarted:learner", "--epochs", str(NUM_EPOCHS)]
        command += ["--resume", "auto", "--with", f"distributed:strategy={strategy}"]
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
            environment["GLOO_SOCKET_IFNAME"] = "node"
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
        if self.namespace:
            run("ip", "-n", self.namespace, "link", "set", "node", "down")
        self.kill()

    def regain(self, strategy: str, folder: Path, endpoint: str) -> None:
        """Let it come back, as a machine that knows nothing of before."""
        if self.namespace:
            run("ip", "-n", self.namespace, "link", "set", "node", "up")
        self.start(strategy, folder, endpoint)

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
        yield "localhost", [Node(n, "localhost", "") for n in range(2)]
        return
    names = [f"callboard-{os.getpid()}-{number}" for number in range(2)]
    bridge = f"cb{os.getpid()}"
    try:
        run("ip", "link", "add", bridge, "type", "bridge")
        run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", bridge)
        run("ip", "link", "set", bridge, "up")
        for number, name in enumerate(names):
            run("ip", "netns", "add", name)
            outer = f"{bridge}v{number}"
            run("ip", "link", "add", outer, "type", "veth", "peer", "node")
            run("ip", "link", "set", "node", "netns", name)
            run("ip", "link", "set", outer, "master", bridge, "up")
            address = f"{NETWORK}.{number + 2}/24"
            run("ip", "-n", name, "addr", "add", address, "dev", "node")
            run("ip", "-n", name, "link", "set", "node", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        print(f"no namespaces: {error.stderr.decode().strip()}", file=sys.stderr)
        take_away(bridge, names)
        yield "localhost", [Node(n, "localhost", "") for n in range(2)]
        return
    try:
        addresses = [f"{NETWORK}.{number + 2}" for number in range(2)]
        yield f"{NETWORK}.1", [Node(n, addresses[n], names[n]) for n in range(2)]
    finally:
        take_away(bridge, names)


def take_away(bridge: str, names: list[str]) -> None:
    """Leave no network behind."""
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)


def train(strategy: str, lost: tuple[int, float] | None) -> str:
    """Train, lose a node after so many steps' checkpoints; what came of it, in a word.

    Args:
        strategy: As of ``distributed``.
        lost: Number of the node, and which part of the run is done by then.
    """
    with tempfile.TemporaryDirectory() as name, two_nodes() as (host, nodes):
        folder = Path(name)
        store = TCPStore(
            host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(hours=1)
        )
        endpoint = f"{host}:{store.port}"
        for node in nodes:
            node.start(strategy, folder, endpoint)
        ends = time.monotonic() + PATIENCE_SECONDS
        try:
            if lost is not None:
                number, part = lost
                while epochs_done(folder) < part * NUM_EPOCHS:
                    if time.monotonic() > ends or is_over(nodes):
                        return "not lost"
                    time.sleep(0.02)
                nodes[number].lose()
                time.sleep(SECONDS_AWAY)
                nodes[number].regain(strategy, folder, endpoint)
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
        straight = train(strategy, None)
        ends = [
            train(strategy, (number % 2, chance.uniform(0.05, 0.8)))
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
