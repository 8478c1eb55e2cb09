"""Run ``callboard`` as a user does, in this process or in one of its own."""

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

import callboard
from callboard import discovery
from callboard.cli import main

CORE = Path(callboard.__file__).parents[1]


def run(*arguments, code=0):
    """Run in this process; gives stdout and stderr apart and as ``output`` together."""
    discovery.refresh()
    result = CliRunner().invoke(main, list(arguments), prog_name="callboard")
    if result.exit_code != code:
        raise AssertionError(result.output) from result.exception
    return result


def run_python(*arguments, paths=(), code=0, **environment):
    """Run Python in a process of its own, with folders in front of its path."""
    path = os.pathsep.join(map(str, [*paths, CORE]))
    ran = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == code, ran.stderr
    return ran
