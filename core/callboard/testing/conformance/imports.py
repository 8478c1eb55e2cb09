"""What importing a module brings along, seen in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

# More modules of one package than that, and importing it takes a good part of a second:
# matplotlib brings 94, sklearn.metrics 490 of scipy; safetensors 3, filelock 8.
HEAVY = 30
SCRIPT = """\
import importlib, json, os, sys

paths, modules = json.load(sys.stdin)
sys.path[:] = paths
import torch, callboard.learner

def brought(module):
    before = set(sys.modules)
    try:
        importlib.import_module(module)
    except BaseException as error:
        return [f"!{type(error).__name__}: {error}"]
    return sorted(set(sys.modules) - before)

def show(module):
    print(json.dumps([module, brought(module)]), flush=True)

for module in modules:
    if not hasattr(os, "fork"):
        show(module)
        continue
    child = os.fork()
    if not child:
        show(module)
        os._exit(0)
    os.waitpid(child, 0)
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


_known: dict[tuple[str, str], Sequence[str]] = {}


def brought_by(modules: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Every module -> what importing it brings along besides torch and the core.

    One process starts for all that nobody asked about before, since importing torch
    takes a second; where that can be done, each is imported in a copy of that process.
    """
    path = os.pathsep.join(sys.path)
    unknown = [module for module in modules if (path, module) not in _known]
    if unknown:
        told = _ask(unknown)
        _known.update({(path, module): told.get(module, ()) for module in unknown})
    return {module: _known[path, module] for module in modules}


def _ask(modules: Sequence[str]) -> Mapping[str, Sequence[str]]:
    asked = json.dumps([sys.path, modules])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        input=asked,
        capture_output=True,
        text=True,
        check=False,
    )
    return dict(_told(ran.stdout))


def _told(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    for line in text.splitlines():
        if line.startswith("["):
            module, brought = json.loads(line)
            yield module, brought
