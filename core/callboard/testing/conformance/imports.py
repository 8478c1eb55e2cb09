"""What importing a module brings along, seen in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from callboard.testing.limiting import TIMEOUT

# More modules of one package than that, and importing it takes a good part of a second:
# matplotlib brings 94, sklearn.metrics 490 of scipy; safetensors 3, filelock 8.
HEAVY = 30
SCRIPT = """\
import importlib, json, os, signal, sys, time

paths, modules, limit = json.load(sys.stdin)
sys.path[:] = paths
import torch, callboard.learner
from callboard.testing.conformance.furnishing import surroundings, what_was_left
from callboard.testing.conformance.watching import global_streams

def imported(module):
    # First, since looking imports a module, too.
    before, streams = surroundings(), dict(global_streams())
    there = set(sys.modules)
    begin = time.perf_counter()
    try:
        importlib.import_module(module)
    except BaseException as error:
        return [f"!{type(error).__name__}: {error}"], [], 0.0
    seconds = time.perf_counter() - begin
    brought = sorted(set(sys.modules) - there)
    now = dict(global_streams())
    moved = [f"the {name} has moved." for name in streams if now[name] != streams[name]]
    changes = [*moved, *what_was_left(before, surroundings())]
    return brought, changes, seconds

def show(module):
    print(json.dumps([module, *imported(module)]), flush=True)

for module in modules:
    if not hasattr(os, "fork"):
        show(module)
        continue
    child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_REAL, limit)
        show(module)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        print(json.dumps([module, [], [], None]), flush=True)
"""


def heavy_packages(modules: Sequence[str], owner: str) -> Mapping[str, int]:
    """Packages of which a module imports many modules at once, and how many.

    Neither the standard library counts, nor what the core imports for a Learner, torch
    among it, nor the plugin's own package.

    Args:
        modules: What was brought along.
        owner: The module that brought it.
    """
    own = owner.partition(".")[0]
    tops = Counter(name.partition(".")[0] for name in modules)
    return {
        top: count
        for top, count in tops.most_common()
        if count > HEAVY and top != own and top not in sys.stdlib_module_names
    }


@dataclass(frozen=True)
class Imported:
    """What importing a module has done.

    Attributes:
        brought: Modules that came along, besides torch and the core.
        changes: What of the process or of torch is not as it was before, in words.
        seconds: How long it took; None where it did not come back in time.
    """

    brought: Sequence[str] = ()
    changes: Sequence[str] = ()
    seconds: float | None = 0.0


_known: dict[tuple[str, str], Imported] = {}


def imports_of(
    modules: Sequence[str], timeout: float = TIMEOUT
) -> Mapping[str, Imported]:
    """Every module -> what importing it does.

    One process starts for all that nobody asked about before, since importing torch
    takes a second; where that can be done, each is imported in a copy of that process.

    Args:
        modules: Their names.
        timeout: Seconds that importing one of them may take, where processes can be
            copied; the start of the process is not among them.
    """
    path = os.pathsep.join(sys.path)
    unknown = [module for module in modules if (path, module) not in _known]
    if unknown:
        told = _ask(unknown, timeout)
        nothing = Imported()
        _known.update({(path, module): told.get(module, nothing) for module in unknown})
    return {module: _known[path, module] for module in modules}


def _ask(modules: Sequence[str], timeout: float) -> Mapping[str, Imported]:
    asked = json.dumps([sys.path, modules, timeout])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        input=asked,
        capture_output=True,
        text=True,
        check=False,
    )
    return dict(_told(ran.stdout))


def _told(text: str) -> Iterator[tuple[str, Imported]]:
    for line in text.splitlines():
        if line.startswith("["):
            module, *found = json.loads(line)
            yield module, Imported(*found)
