"""Which plugins are added, and what is said of those that are not."""

import re
from functools import partial

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, Learner
from callboard.cli import main
from callboard_fast import Fast, choices
from callboard_prefetch import Prefetch


def loader():
    inputs = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, torch.arange(16) % 3), 4, shuffle=True)


def make(*cbs, dls=None, model=None, opt_func=torch.optim.AdamW):
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    model = nn.Sequential(*layers) if model is None else model
    data = (loader(), loader()) if dls is None else dls
    options = {"cbs": [*cbs], "seed": 1, "device": "cpu"}
    return Learner(data, model, nn.CrossEntropyLoss(), opt_func, **options)


def chosen(learner):
    return {choice.plugin: choice.is_used for choice in choices(learner)}


def test_on_a_cpu_convolutions_are_turned_and_nothing_is_compiled():
    learner = make(Fast(show=False))

    added = {"fused-optimizer", "prefetch", "channels-last"}
    assert set(learner.cbs.keys()) == {"fast", *added}


def test_it_learns_what_the_plain_run_learns_but_for_rounding():
    plain, fast = make(), make(Fast(show=False))
    plain.fit(3)
    fast.fit(3)

    for one, other in zip(
        plain.model.parameters(), fast.model.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_it_says_what_it_chose_and_why(capsys):
    make(Fast())

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "fast: fused-optimizer: on, since torch has AdamW in a fused form for cpu"
    )
    assert len(lines) == 5
    assert lines[3].startswith("fast: compile: off, since")


@pytest.mark.parametrize(
    ("change", "plugin", "is_used"),
    [
        ({"opt_func": torch.optim.RMSprop}, "fused-optimizer", False),
        ({"opt_func": partial(torch.optim.SGD, momentum=0.9)}, "fused-optimizer", True),
        ({"dls": [(torch.ones(2, 1, 8, 8), torch.ones(2))]}, "prefetch", False),
        ({"model": nn.Linear(8, 1)}, "channels-last", False),
        ({"model": nn.Conv2d(2, 2, 3, groups=2)}, "channels-last", False),
        ({"model": nn.Conv2d(2, 2, 3)}, "channels-last", True),
        ({"model": nn.Linear(1024, 1024)}, "compile", False),
    ],
)
def test_each_is_used_where_it_fits(change, plugin, is_used):
    assert chosen(make(**change))[plugin] is is_used


def sequences():
    codes = torch.zeros(8, 5, dtype=torch.long)
    return DataLoader(TensorDataset(codes, codes), 4)


def a_model_of_sequences(width):
    return nn.Sequential(nn.Embedding(9, width), nn.Linear(width, width))


@pytest.mark.parametrize(
    ("model", "is_used"),
    [
        (nn.Conv2d(1, 32, 3), True),
        (nn.Conv2d(1, 16, 3), False),
        (a_model_of_sequences(128), True),
        (a_model_of_sequences(64), False),
        (nn.Linear(1024, 1024), False),
        (a_model_of_sequences(128).double(), False),
    ],
    ids=["channels", "few", "wide", "narrow", "few rows", "float64"],
)
def test_half_precision_is_used_where_layers_gain_by_it(model, is_used, monkeypatch):
    monkeypatch.setattr("callboard_fast._has_bfloat16", lambda device: True)

    assert chosen(make(model=model))["mixed-precision"] is is_used


def test_half_precision_is_left_out_where_the_processor_has_none(monkeypatch, capsys):
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)

    learner = make(Fast(), model=a_model_of_sequences(128))

    assert "mixed-precision" not in learner.cbs
    assert "this cpu does not calculate in bfloat16" in capsys.readouterr().out


def test_half_precision_is_bfloat16_and_says_what_changes(monkeypatch, capsys):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True})

    learner = make(Fast(), model=nn.Conv2d(1, 32, 3))

    assert learner.mixed_precision.amp_mode == "bf16"
    assert "losses differ in their third digit" in capsys.readouterr().out


CONVOLVES = """
import torch
from callboard import Learner
from torch import nn

def learner():
    batches = [(torch.ones(2, 1, 3, 3), torch.ones(2, 32, 1, 1))]
    return Learner(batches, nn.Conv2d(1, 32, 3), nn.MSELoss(), device="cpu")
"""


def test_half_precision_can_be_kept_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("callboard_fast._has_bfloat16", lambda device: True)
    (tmp_path / "train.py").write_text(CONVOLVES)
    options = ["fit", "train.py", "--epochs", "1", "--fast"]

    with_it = CliRunner().invoke(main, options)
    without = CliRunner().invoke(main, [*options, "--without", "mixed-precision"])

    assert with_it.exit_code == without.exit_code == 0, without.output
    board = re.compile(r"^\d +mixed-precision +modify", re.MULTILINE)
    assert board.search(with_it.output)
    assert not board.search(without.output)


def test_on_a_gpu_models_are_compiled_where_they_can_be(monkeypatch):
    learner = make()
    learner.device = torch.device("cuda", 0)

    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert chosen(learner)["compile"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not chosen(learner)["compile"]
    assert chosen(learner)["channels-last"]
    assert chosen(learner)["fused-optimizer"]


def test_what_is_active_already_stays_as_it_is():
    own = Prefetch(num_workers=1)

    learner = make(own, Fast(show=False))

    assert [c for c in learner.cbs if isinstance(c, Prefetch)] == [own]


def test_the_option_of_the_command_line_is_the_plugin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(
        "from callboard.testing import tiny_learner\n\nlearner = tiny_learner\n"
    )

    done = CliRunner().invoke(main, ["fit", "train.py", "--epochs", "1", "--fast"])

    assert done.exit_code == 0, done.output
    assert "fast: fused-optimizer: on, since torch has Adam in a fused" in done.output
    assert "Done in" in done.output


def test_what_conflicts_with_an_active_plugin_is_not_added():
    class Parallel(Callback):
        conflicts_with = "compile"

    said = "".join(map(str, choices(make(Parallel()))))

    assert "compile: off, since parallel does not go with it" in said
