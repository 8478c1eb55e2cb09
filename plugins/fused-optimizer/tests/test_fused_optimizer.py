"""One call a step, the same curve but for rounding, and an optimizer left as it was."""

import subprocess
import sys

import pytest
import torch

from callboard import Callback, Learner
from callboard.testing import cost_of, tiny_learner
from callboard_fused_optimizer import (
    FUSED_ON,
    FusedOptimizer,
    step_without_compiler,
    why_not,
)


def trained(opt_func, *cbs, num_epochs=3):
    learner = tiny_learner(cbs=[*cbs], opt_func=opt_func)
    learner.fit(num_epochs)
    return learner


@pytest.mark.parametrize("opt_func", FUSED_ON, ids=lambda kind: kind.__name__)
def test_it_learns_the_same_but_for_rounding(opt_func):
    def curve(*cbs):
        torch.manual_seed(0)
        inputs = torch.randn(64, 4)
        batches = [(part, part.sum(1, keepdim=True)) for part in inputs.split(8)]
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        )
        loss_func = torch.nn.functional.mse_loss
        learner = Learner(batches, model, loss_func, opt_func, 0.01, cbs=[*cbs])
        losses = []

        class Keeps(Callback):
            def after_batch(self):
                losses.append(self.learn.loss.detach())

        learner.fit(3, cbs=Keeps())
        return torch.stack(losses)

    torch.testing.assert_close(curve(), curve(FusedOptimizer()))


def test_a_step_takes_fewer_tensor_operations_and_reads_nothing():
    def adam(cbs):
        return tiny_learner(cbs=cbs, opt_func=torch.optim.AdamW)

    cost = cost_of(FusedOptimizer, adam)

    assert cost.tensor_operations < -20
    assert cost.host_reads < -1


def test_the_optimizer_is_left_as_it_was_and_goes_on_with_its_state():
    learner = trained(torch.optim.Adam, FusedOptimizer())
    assert not any(group["fused"] for group in learner.opt.param_groups)
    steps = {float(state["step"]) for state in learner.opt.state.values()}
    assert steps == {9.0}

    learner.remove_cb("fused-optimizer")
    learner.fit(1)

    assert float(next(iter(learner.opt.state.values()))["step"]) == 12


def test_it_is_fused_while_it_trains():
    seen = []

    class Looks(FusedOptimizer):
        def after_step(self):
            seen.append([group["fused"] for group in self.learn.opt.param_groups])

    trained(torch.optim.SGD, Looks(), num_epochs=1)

    assert seen == [[True]] * 3


def test_what_cannot_be_fused_steps_as_ever_and_says_why():
    plain, same = (
        trained(torch.optim.RMSprop, *cbs) for cbs in ((), (FusedOptimizer(),))
    )

    assert "this is RMSprop" in same.fused_optimizer.reason
    for one, other in zip(
        plain.model.parameters(), same.model.parameters(), strict=True
    ):
        assert one.equal(other)


def test_sparse_gradients_and_what_was_asked_for_are_left_alone():
    weight = torch.nn.Parameter(torch.ones(2))
    adam = torch.optim.Adam([weight])
    assert why_not(adam) == ""
    assert "sparse" in why_not(adam, has_sparse=True)
    assert "foreach" in why_not(torch.optim.Adam([weight], foreach=True))
    integer = torch.nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    assert "int8" in why_not(torch.optim.SGD([weight, integer]))
    assert "on meta" in why_not(
        torch.optim.SGD([torch.nn.Parameter(torch.ones(2, device="meta"))])
    )


# ---- without the compiler -----------------------------------------------------

FITS_AND_GOES_ON = """
import sys, torch
from callboard.testing import tiny_learner

def weights(kind, *cbs):
    learner = tiny_learner(cbs=[*cbs], opt_func=kind)
    learner.fit(2)
    assert "step" not in vars(learner.opt)
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])

kinds = [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop]
without = [weights(kind, "fused-optimizer") for kind in kinds]
assert "torch._dynamo" not in sys.modules
import torch._dynamo
with_it = [weights(kind, "fused-optimizer") for kind in kinds]
assert all(map(torch.equal, without, with_it))

opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
taken = torch.compile(opt.zero_grad, backend="eager")
taken()
"""


def test_training_does_not_load_the_compiler_and_goes_on_where_others_do():
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", FITS_AND_GOES_ON],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert ran.returncode == 0, ran.stderr


@pytest.fixture
def unloaded(monkeypatch):
    """Others in this process may have loaded it."""
    monkeypatch.setattr("callboard_fused_optimizer.COMPILER", "not loaded")


def an_optimizer(**options):
    weight = torch.ones(2, requires_grad=True)
    weight.grad = torch.ones(2)
    return weight, torch.optim.SGD([weight], 0.5, **options)


def test_a_step_is_the_same_with_a_closure_and_without(unloaded):
    weight, opt = an_optimizer()
    step_without_compiler(opt)

    opt.step()
    assert weight.tolist() == [0.5, 0.5]
    assert opt.step(lambda: (2 * weight).sum()).item() == 2.0
    assert weight.tolist() == [0.0, 0.0]


def test_a_scheduler_of_torch_that_is_made_in_a_fit_wraps_the_step():
    class Schedules(Callback):
        run_after = "fused-optimizer"

        def before_fit(self):
            self.scheduler = torch.optim.lr_scheduler.ConstantLR(self.learn.opt)

    schedules = Schedules()
    learner = trained(torch.optim.SGD, FusedOptimizer(), schedules, num_epochs=1)

    schedules.scheduler.step()
    assert learner.opt._opt_called


def test_hooks_of_a_step_are_called(unloaded):
    _, opt = an_optimizer()
    step_without_compiler(opt)
    called = []
    opt.register_step_post_hook(lambda *_: called.append("after"))

    opt.step()

    assert called == ["after"]


def test_a_profiler_sees_the_step(unloaded):
    _, opt = an_optimizer()
    step_without_compiler(opt)

    with torch.profiler.profile() as profile:
        opt.step()

    names = {event.key for event in profile.key_averages()}
    assert "Optimizer.step#SGD.step" in names


def test_what_is_not_as_torch_made_it_is_left_alone():
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    _, differentiable = an_optimizer(differentiable=True)
    own = Own([torch.zeros(1, requires_grad=True)])
    scheduled = an_optimizer()[1]
    torch.optim.lr_scheduler.ExponentialLR(scheduled, 0.9)
    before = scheduled.step

    for opt in (differentiable, own, scheduled):
        step_without_compiler(opt)

    assert "step" not in vars(differentiable)
    assert "step" not in vars(own)
    assert scheduled.step is before
