"""Several processes train as one; the tests start them over gloo, on the CPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, Learner
from callboard.errors import ActivationError, OptionError
from callboard_distributed import DistributedCallback
from callboard_distributed.comparing import differences
from callboard_distributed.shares import PartSampler, bounds, own_slice
from callboard_distributed.strategies import recompute, repeated_blocks

HERE = Path(__file__).parent
SECONDS = 240
# `nox -s distributed` tries four.
NUM_PROCESSES = int(os.environ.get("CALLBOARD_PROCESSES", "2"))
SAME_AS_ALONE = [
    *("ddp", "fsdp2", "hsdp", "recomputed", "named_blocks", "with_workers", "a_list"),
    *("any_iterable", "a_stream", "one_left_over", "one_left_over_fsdp2"),
    *("accumulated", "accumulated_fsdp2", "clipped", "clipped_fsdp2", "scheduled"),
    "unfrozen",
]
SAVED_AND_RESUMED = [
    *("saved_and_resumed", "saved_and_resumed_fsdp2"),
    *("saved_between_steps", "saved_between_steps_fsdp2", "saved_and_resumed_hsdp"),
    *("saved_and_resumed_gathered", "saved_and_resumed_at_once"),
]
IN_SHARES = [
    *("in_shares", "a_share_is_damaged", "one_cannot_write"),
    "one_does_not_see_the_folder",
]
OTHERS = [
    *("where", "summed_loss", "metrics", "predictions", "bfloat16", "stopped_by_one"),
    *("lost_by_one", *SAVED_AND_RESUMED, *IN_SHARES, "unlike"),
]


def environment():
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    return {**kept, "CALLBOARD_AUTOLOAD": "0", "OMP_NUM_THREADS": "1"}


def torchrun(*command, num_processes=NUM_PROCESSES, options=(), **given):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    start += ["--nproc-per-node", str(num_processes), *options]
    return subprocess.run(
        [*start, *map(str, command)],
        env={**environment(), **given.pop("env", {})},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        **given,
    )


def tried_in_many(folder, names, num_processes=NUM_PROCESSES):
    """What scenarios come to in many processes, by name: one of each process."""
    shared = {"SHARED": str(folder / "shared")}
    program = HERE / "scenarios.py"
    done = torchrun(program, folder, *names, env=shared, num_processes=num_processes)
    assert done.returncode == 0, done.stderr[-4000:]
    return {
        name: [
            json.loads((folder / f"{name}-{rank}.json").read_text())
            for rank in range(num_processes)
        ]
        for name in names
    }


def tried_alone(folder, names):
    """What scenarios come to in one process."""
    done = subprocess.run(
        [sys.executable, HERE / "scenarios.py", folder, *names],
        env={**environment(), "WORLD_SIZE": "1", "SHARED": str(folder / "shared")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: json.loads((folder / f"{name}-0.json").read_text()) for name in names}


@pytest.fixture(scope="module")
def in_many(tmp_path_factory):
    return tried_in_many(tmp_path_factory.mktemp("two"), [*SAME_AS_ALONE, *OTHERS])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    names = [name for name in [*SAME_AS_ALONE, *OTHERS] if name not in IN_SHARES]
    return tried_alone(tmp_path_factory.mktemp("one"), names)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    """Runs that are saved by some processes and go on in others."""
    folder = tmp_path_factory.mktemp("crossed")
    found = tried_alone(folder, ["saved_by_one"])
    found |= tried_in_many(folder, ["saved_by_four"], num_processes=4)
    names = ["saved_by_two", "taken_over_from_one", "taken_over_from_four"]
    found |= tried_in_many(folder, names, num_processes=2)
    return found | tried_alone(folder, ["taken_over_from_two"])


def test_each_process_knows_its_place(in_many):
    for rank, process in enumerate(in_many["where"]):
        assert process["rank"] == rank
        assert process["world_size"] == NUM_PROCESSES
        assert process["is_main"] == (rank == 0)


@pytest.mark.parametrize("scenario", SAME_AS_ALONE)
def test_many_processes_have_the_losses_of_one(in_many, alone, scenario):
    one = alone[scenario]

    for process in in_many[scenario]:
        assert process["steps"] == one["steps"]
        assert process["losses"] == pytest.approx(one["losses"], rel=1e-6, abs=1e-6)
        assert process["recorded"] == pytest.approx(one["recorded"], rel=1e-6, abs=1e-6)
        assert process["results"] == pytest.approx(one["results"], rel=1e-6, abs=1e-6)
    weights = in_many[scenario][0]["weights"]
    assert weights == pytest.approx(one["weights"], rel=1e-5, abs=1e-5)


def test_a_loss_that_is_a_sum_is_one(in_many, alone):
    weights = in_many["summed_loss"][0]["weights"]

    assert weights == pytest.approx(alone["summed_loss"]["weights"], rel=1e-5, abs=1e-5)


def test_metrics_are_those_of_all_samples(in_many, alone):
    for process in in_many["metrics"]:
        for when in ("fitted", "validated"):
            assert process[when] == pytest.approx(alone["metrics"][when])


def test_predictions_are_of_all_samples_in_every_process(in_many, alone):
    for process in in_many["predictions"]:
        assert process["shape"] == [21, 3]
        assert process["sum"] == pytest.approx(alone["predictions"]["sum"], abs=1e-4)


def test_bfloat16_learns_about_the_same(in_many, alone):
    losses, exact = in_many["bfloat16"][0]["losses"], alone["bfloat16"]["losses"]

    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.05)


def test_a_stop_that_one_asks_for_is_answered_by_all_a_step_later(in_many):
    for process in in_many["stopped_by_one"]:
        assert process["reasons"] == ["enough"]
        assert process["steps"] == 4  # asked in the third


def test_a_loss_that_is_no_number_in_one_is_an_error_in_all(in_many):
    first, *others = in_many["lost_by_one"]

    assert first["cause"] == "NonFiniteError"
    for process in others:
        assert process == {**first, "error": process["error"]}  # one of them is told


@pytest.mark.parametrize("scenario", SAVED_AND_RESUMED)
def test_as_many_processes_go_on_bit_for_bit(in_many, scenario):
    for process in in_many[scenario]:
        straight, resumed = process["results"]
        assert process["is_same"]
        assert resumed == straight
        assert process["saved"] >= 3
        assert process["steps"] == 12


def test_each_process_writes_its_share_of_the_weights(in_many):
    for process in in_many["in_shares"]:
        files = process["files"]
        shares = [name for name in files if name.startswith("shard-")]
        assert {*files} == {"checkpoint.json", "tensors.safetensors", *shares}
        assert len(shares) == NUM_PROCESSES
        num_bytes = 4 * process["num_weights"]  # Adam keeps twice as much besides
        assert sum(files[name] for name in shares) > 3 * num_bytes
        assert files["tensors.safetensors"] < 1.5 * num_bytes
        assert process["left"] == []


def test_a_damaged_share_is_named_and_the_run_goes_on_from_the_checkpoint_before(
    in_many,
):
    for process in in_many["a_share_is_damaged"]:
        [said] = process["said"]
        assert re.search(r"shard-00002-\S+ is not what was written", said)
        assert re.search(r"shard-00001-\S+ cannot be read", said)
        assert process["steps"] == 6


def test_a_share_that_cannot_be_written_is_said_and_training_goes_on(in_many):
    main, *others = in_many["one_cannot_write"]

    assert len(main["said"]) == 1
    assert "process 1" in main["said"][0]
    assert "No space left" in main["said"][0]
    for process in others:
        assert process["said"] == []
        assert process["saved"] == main["saved"]
    assert [name.split("-")[-1] for name in main["saved"]] == ["2", "6"]
    assert main["left"] == 0
    assert main["steps"] == 6


def test_without_a_folder_that_all_see_the_main_process_writes_all(in_many):
    processes = in_many["one_does_not_see_the_folder"]

    files = processes[0]["None"]["files"]
    assert files == ["checkpoint.json", "tensors.safetensors"]
    for process in processes:
        assert process["True"]["cause"] == "OptionError"
        assert "process 1 does not see" in process["True"]["message"]


def test_a_run_of_one_process_goes_on_in_many_and_back(crossed, alone):
    straight = alone["ddp"]

    for scenario, said in (
        ("taken_over_from_one", "processes is 2 now and was 1 then"),
        ("taken_over_from_two", "processes is 1 now and was 2 then"),
        ("taken_over_from_four", "processes is 2 now and was 4 then"),
    ):
        found = crossed[scenario]
        for process in found if isinstance(found, list) else [found]:
            assert process["steps"] == straight["steps"]
            assert process["losses"] == pytest.approx(straight["losses"][6:], rel=1e-6)
            assert process["results"] == pytest.approx(straight["results"], rel=1e-6)
            assert any(said in each for each in process["said"]), process["said"]


def test_one_process_tells_of_an_error_and_the_others_end_quietly(in_many):
    errors = {each["error"] for each in in_many["unlike"]}

    assert errors == {"DifferenceError", "EndedByAnother"}


def test_a_plugin_that_only_one_process_has_is_named(in_many):
    for process in in_many["unlike"]:
        assert process["cause"] == "DifferenceError"
        assert "process 1 would not train as process 0" in process["message"]
        assert "plugin extra" in process["message"]
        assert "place of" not in process["message"]


def a_small_learner(*others, **options):
    data = TensorDataset(torch.randn(6, 2), torch.randn(6, 1))
    cbs = [*others, DistributedCallback(**options)]
    given = {"device": "cpu", "cbs": cbs}
    return Learner(DataLoader(data, 2), nn.Linear(2, 1), nn.MSELoss(), seed=1, **given)


@pytest.fixture
def without_group():
    """No process group before and behind, whatever another test has left."""

    def destroy():
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    destroy()
    yield
    destroy()


def test_one_process_needs_no_group_for_ddp(without_group):
    learner = a_small_learner()

    learner.fit(1)

    assert not torch.distributed.is_initialized()
    assert learner.world_size == 1


def test_one_process_comes_together_anew_when_the_group_was_destroyed(without_group):
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        learner = a_small_learner(strategy="fsdp2")
        learner.fit(1)
        losses.append(float(learner.loss))
        torch.distributed.destroy_process_group()

    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "zero"}, 'strategy must be "ddp" or "fsdp2"'),
        ({"precision": "bfloat16"}, "precision is for strategy='fsdp2'"),
        ({"strategy": "fsdp2", "precision": "int8"}, "precision must be one of"),
        ({"strategy": "fsdp2", "shard_size": 0}, "shard_size must be from 1 on"),
        ({"timeout_seconds": 0}, "timeout_seconds must be above 0"),
    ],
    ids=["strategy", "ddp", "precision", "shard_size", "timeout"],
)
def test_an_option_that_cannot_be_used_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        DistributedCallback(**options)


def test_the_parts_of_a_batch_are_all_of_it_and_differ_by_one_at_most():
    for size in range(20):
        parts = [bounds(size, part, 4) for part in range(4)]
        assert [n for begin, end in parts for n in range(begin, end)] == [*range(size)]
        assert max(e - b for b, e in parts) - min(e - b for b, e in parts) <= 1


def test_a_process_without_a_sample_takes_the_first_to_keep_in_step():
    sampler = PartSampler([[3, 1], [2]], part=1, num_parts=2)

    assert list(sampler) == [[1], [2]]
    assert sampler.sizes == [(1, 2), (0, 1)]


def test_a_slice_is_of_every_part_of_a_batch():
    batch = {"x": torch.arange(5), "names": list("abcde"), "scale": torch.tensor(2.0)}

    own = own_slice((batch, torch.arange(5)), 1, 2)

    assert own[0]["x"].tolist() == own[1].tolist() == [3, 4]
    assert own[0]["names"] == ["d", "e"]
    assert own[0]["scale"] == 2.0


def test_the_blocks_of_a_model_are_what_its_containers_repeat():
    block = lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU())  # noqa: E731
    layers = nn.ModuleList([block(), block()])
    model = nn.ModuleDict({"layers": layers, "head": nn.Linear(2, 1)})

    assert set(repeated_blocks(model)) == set(layers)


def test_it_runs_beside_prefetch_and_answers_behind_it():
    learner = a_small_learner("prefetch")

    learner.fit(1)

    assert list(learner.cbs.keys()) == ["distributed", "prefetch"]


@pytest.mark.parametrize("name", ["compile", "cuda-graphs", "parallel-trainer"])
def test_what_predicts_in_the_models_place_is_refused(name):
    other = type("Other", (Callback,), {"name": name})

    with pytest.raises(ActivationError, match=r"distributed .*since"):
        a_small_learner(other())


def test_a_block_that_is_not_there_is_named():
    with pytest.raises(OptionError, match="the model has no Decoder"):
        repeated_blocks(nn.Linear(2, 1), ["Decoder"])


def test_a_block_that_is_computed_again_has_the_gradients_that_it_had():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    inputs, names = torch.randn(2, 3), list(block.state_dict())
    block(inputs).sum().backward()
    before = block[0].weight.grad.clone()
    block.zero_grad()

    recompute(block)
    block(inputs).sum().backward()

    assert torch.equal(block[0].weight.grad, before)
    assert list(block.state_dict()) == names


def test_what_two_processes_have_different_is_said_a_line_each():
    said = differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5})

    assert said == [
        "b: 4 here, 2 in process 0",
        "c: 3 there in process 0, missing here",
        "d: 5 here, missing in process 0",
    ]


def callboard_fit(*options, **given):
    command = ["-m", "callboard", "fit", HERE / "train.py", "--epochs", "2"]
    return torchrun(*command, *options, **given)


def test_one_command_trains_in_many_processes_and_the_main_one_speaks():
    done = callboard_fit("--with", "distributed:strategy=fsdp2")

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done in") == 1
    assert done.stdout.count("--with distributed") == 1


def test_a_signal_to_one_process_saves_and_ends_all_and_the_run_goes_on(tmp_path):
    options = ["--with", "distributed", "--with", "checkpoint:every=100step"]
    straight = callboard_fit("--with", "distributed", cwd=tmp_path)

    ended = callboard_fit(*options, "-o", "mishap=SIGTERM", cwd=tmp_path)
    resumed = callboard_fit(*options, "--resume", "auto", cwd=tmp_path)

    assert ended.returncode == 1  # torchrun's
    assert "exitcode  : 143" in ended.stderr
    assert ended.stderr.count("SIGTERM: finishing the step, saving.") >= 1
    assert resumed.returncode == 0, resumed.stderr
    assert "behind 4 of its batches" in resumed.stdout
    assert results_in(resumed) == results_in(straight)


def results_in(done):
    """The last line, without times."""
    return re.search(r"epoch 1: .*?(?=, time)", done.stdout)[0]


def test_what_fails_in_one_process_ends_all_in_seconds_and_is_shown_once():
    done = callboard_fit("--with", "distributed", "-o", "is_broken=true")

    assert done.returncode == 1
    assert done.stderr.count("ValueError: broken here") == 1
    assert "plugin break (train.py) during after_loss" in done.stderr
    assert "Connection" not in done.stderr


def test_several_processes_that_nothing_brings_together_are_refused_once():
    done = callboard_fit()

    assert done.returncode == 1
    assert (
        done.stderr.count(
            f"{NUM_PROCESSES} processes were started, and nothing brings them"
        )
        == 1
    )
