"""The recipes in examples/cluster start ``callboard fit``, on one machine at least."""

import csv
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from callboard.cli import main

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "examples" / "cluster"
PATIENCE_SECONDS = 240
OPTIONS = [
    *(str(ROOT / "examples" / "language_model.py"), "--epochs", "1"),
    *("--with", "csv-logger", "-o", "width=16", "-o", "num_blocks=1"),
    *("-o", "length=32", "-o", "max_letters=20000", "-o", "sample=0"),
]
# Of Slurm: what starts a command on each machine of a job, and what names them.
SRUN = """#!/bin/sh
"$@" & "$@" & first=$!
wait $first && wait
"""
SCONTROL = """#!/bin/sh
test "$1 $2 $3" = "show hostnames node[1-2]" && printf 'localhost\\nlocalhost\\n'
"""


def environment(**more):
    """What a user's programs find, with the programs of this Python first."""
    usual = {k: v for k, v in os.environ.items() if k != "CALLBOARD_AUTOLOAD"}
    programs = os.pathsep.join((str(Path(sys.executable).parent), usual["PATH"]))
    return {**usual, "PATH": programs, "OMP_NUM_THREADS": "1", **more}


def logged(folder):
    """The losses that a run has logged."""
    with (folder / "runs/language-model/history.csv").open() as log:
        (row,) = csv.DictReader(log)
    return [float(row["train_loss"]), float(row["valid_loss"])]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of one process."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "-m", "callboard", "fit", *OPTIONS]
    subprocess.run(command, cwd=folder, env=environment(), check=True)
    return logged(folder)


def free_port(first, last):
    """A port of this machine that nobody listens at."""
    for port in range(first, last):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)):
                return port
    raise AssertionError("there is none")


def make_program(folder, name, text):
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="Slurm runs scripts of a shell")
def test_the_script_for_slurm_starts_machines_that_train_as_one(alone, tmp_path):
    make_program(tmp_path, "srun", SRUN)
    make_program(tmp_path, "scontrol", SCONTROL)
    given = environment(
        SLURM_JOB_NODELIST="node[1-2]",
        SLURM_JOB_NUM_NODES="2",
        SLURM_GPUS_ON_NODE="1",
        # The script meets at port 20000 and the last digits of this.
        SLURM_JOB_ID=str(free_port(25000 + os.getpid() % 1000, 30000) - 20000),
    )
    given["PATH"] = os.pathsep.join((str(tmp_path), given["PATH"]))

    done = subprocess.run(
        [
            *("bash", RECIPES / "slurm.sh", *OPTIONS),
            *("--with", "distributed:strategy=fsdp2"),
        ],
        cwd=tmp_path,
        env=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("Done in") == 1
    assert logged(tmp_path) == pytest.approx(alone, rel=1e-6)


def test_the_script_for_slurm_is_a_script_that_asks_for_machines():
    script = (RECIPES / "slurm.sh").read_text()

    subprocess.run(["bash", "-n", RECIPES / "slurm.sh"], check=True)
    before_commands = script.partition("set -euo pipefail")[0]
    assert script.count("#SBATCH --") == before_commands.count("#SBATCH --") == 6


def test_the_job_for_kubernetes_is_what_torchrun_understands(monkeypatch):
    yaml = pytest.importorskip("yaml")
    from torch.distributed.run import config_from_args, parse_args

    job = yaml.safe_load((RECIPES / "pytorchjob.yaml").read_text())
    policy = job["spec"]["elasticPolicy"]
    (worker,) = job["spec"]["pytorchReplicaSpecs"].values()
    (container,) = worker["template"]["spec"]["containers"]
    # What the operator sets: pkg/controller.v1/pytorch/elastic.go of its 1.x releases.
    endpoint = f"{job['metadata']['name']}-worker-0:23456"
    monkeypatch.setenv("PET_RDZV_ENDPOINT", endpoint)
    monkeypatch.setenv("PET_RDZV_BACKEND", policy["rdzvBackend"])
    nodes = f"{policy['minReplicas']}:{policy['maxReplicas']}"
    monkeypatch.setenv("PET_NNODES", nodes)
    monkeypatch.setenv("PET_MAX_RESTARTS", str(policy["maxRestarts"]))
    program, *arguments = [*container["command"], *container["args"]]

    config, started, passed = config_from_args(parse_args(arguments))

    assert (program, started) == ("torchrun", sys.executable)
    assert (config.min_nodes, config.max_nodes) == (2, worker["replicas"])
    assert config.nproc_per_node == container["resources"]["limits"]["nvidia.com/gpu"]
    assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", endpoint)
    assert config.max_restarts == 3
    assert passed[:3] == ["-u", "-m", "callboard"]
    assert_is_fit(passed[3:])


def assert_is_fit(words):
    """Fail unless ``callboard`` understands them, with a strategy among them."""
    command = main.get_command(click.Context(main), words[0])
    read = command.make_context("fit", words[1:]).params
    assert read["epochs"] == 5
    assert read["with_plugins"] == (("distributed", {"strategy": "fsdp2"}),)


def test_the_function_for_ray_trains_where_processes_are_together(alone, tmp_path):
    as_ray_does = f"""
import sys
import torch.distributed as dist
sys.path.insert(0, {str(RECIPES)!r})
import ray_train
dist.init_process_group("gloo")
ray_train.fit({{"arguments": sys.argv[1:]}})
dist.destroy_process_group()
"""
    program = tmp_path / "worker.py"
    program.write_text(as_ray_does)

    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", program, *OPTIONS),
            *("--with", "distributed:strategy=ddp"),
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert done.returncode == 0, done.stderr[-4000:]
    assert logged(tmp_path) == pytest.approx(alone, rel=1e-6)


def test_the_program_for_ray_needs_it_only_where_it_starts_processes():
    place = RECIPES / "ray_train.py"
    spec = importlib.util.spec_from_file_location("ray_train_recipe", place)
    module = importlib.util.module_from_spec(spec)

    spec.loader.exec_module(module)

    assert "ray" not in sys.modules
    assert callable(module.fit)
