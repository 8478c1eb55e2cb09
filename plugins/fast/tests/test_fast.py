"""Which plugins are added, and what is said of those that are not."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, Learner
from callboard_compile import Compile
from callboard_fast import Fast, choices


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


def test_on_a_cpu_a_small_model_gets_a_fused_optimizer_and_whole_batches():
    learner = make(Fast(show=False))

    assert set(learner.cbs.keys()) == {"fast", "fused-optimizer", "prefetch"}


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
    assert len(lines) == 4
    assert "would not earn back the compiling" in lines[3]


@pytest.mark.parametrize(
    ("change", "plugin", "is_used"),
    [
        ({"opt_func": torch.optim.RMSprop}, "fused-optimizer", False),
        ({"opt_func": partial(torch.optim.SGD, momentum=0.9)}, "fused-optimizer", True),
        ({"dls": [(torch.ones(2, 1, 8, 8), torch.ones(2))]}, "prefetch", False),
        ({"model": nn.Linear(8, 1)}, "channels-last", False),
        ({"model": nn.Linear(1024, 1024)}, "compile", True),
    ],
)
def test_each_is_used_where_it_fits(change, plugin, is_used, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")

    assert chosen(make(**change))[plugin] is is_used


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)

    (choice,) = [
        c for c in choices(make(model=nn.Linear(1024, 1024))) if c.plugin == "compile"
    ]

    assert "no C++ compiler" in str(choice)


def test_what_is_active_already_stays_as_it_is(monkeypatch):
    own = Compile(what="model")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")

    learner = make(own, Fast(show=False), model=nn.Linear(1024, 1024))

    assert [c for c in learner.cbs if isinstance(c, Compile)] == [own]


def test_nothing_is_compiled_beside_what_predicts_in_the_models_place(monkeypatch):
    class ParallelTrainer(Callback):
        pass

    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")

    learner = make(ParallelTrainer(), model=nn.Linear(1024, 1024))

    assert "compile: off, since parallel-trainer" in "".join(map(str, choices(learner)))
