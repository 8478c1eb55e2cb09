"""Half precision, against torch's own recipe written out as a bare loop."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from callboard import (
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelStepException,
    Learner,
)
from callboard.errors import NonFiniteError, OptionError
from callboard.testing import assert_same_run, tiny_learner
from callboard_gradient_accumulation import GradientAccumulation
from callboard_gradient_clip import GradientClip
from callboard_mixed_precision import MixedPrecision, in_full_precision

NUM_BATCHES, SIZE = 7, 8
FAST = {"init_scale": 2.0**18, "growth_interval": 2}


def batches():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(NUM_BATCHES, SIZE, 4, generator=generator)
    return [(x, x.argmax(1) % 3) for x in inputs]


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


def make(*cbs, **options):
    return Learner(
        options.pop("dls", None) or batches(),
        make_model(),
        options.pop("loss_func", None) or nn.CrossEntropyLoss(),
        options.pop("opt_func", torch.optim.Adam),
        lr=0.01,
        cbs=cbs,
        **options,
    )


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def bare_loop(dtype, *, num_epochs, n_acc=1, max_norm=None, **scaler_options):
    """torch's recipe for mixed precision: autocast, scale, unscale, clip, step."""
    model, loss_func = make_model(), nn.CrossEntropyLoss()
    opt = torch.optim.Adam(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler(
        "cpu", enabled=dtype == torch.float16, **scaler_options
    )
    scales, losses = [], []
    for _ in range(num_epochs):
        for number, (x, y) in enumerate(batches(), 1):
            with torch.autocast("cpu", dtype):
                loss = loss_func(model(x), y)
            losses.append(float(loss.detach()))
            scaler.scale(loss / n_acc).backward()
            if number % n_acc == 0:
                scaler.unscale_(opt)
                if max_norm is not None:
                    clip_grad_norm_(model.parameters(), max_norm)
                scaler.step(opt)
                scaler.update()
                opt.zero_grad()
                scales.append(scaler.get_scale())
    return model, losses, scales


class Watch(Callback):
    role = "observe"
    run_after = "mixed-precision"

    def before_fit(self):
        self.losses, self.scales, self.dtypes = [], [], set()

    def after_loss(self):
        if self.training:
            self.losses.append(float(self.loss.detach()))
        self.dtypes |= {self.pred.dtype, self.loss.dtype}

    def after_step(self):
        self.scales.append(self.learn.mixed_precision.scale)


@pytest.mark.parametrize("mode", ["fp16", "bf16"])
def test_a_fit_is_torchs_own_recipe_bit_for_bit(mode):
    options = FAST if mode == "fp16" else {}
    watch = Watch()
    learner = make(MixedPrecision(mode, **options), watch)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[mode]

    learner.fit(3)
    model, losses, scales = bare_loop(dtype, num_epochs=3, **options)

    assert torch.equal(weights(learner.model), weights(model))
    assert watch.losses == losses
    assert watch.scales == scales
    assert (len(set(scales)) > 2) is (mode == "fp16")  # it went down, and up again


def test_accumulating_and_clipping_are_torchs_own_recipe_too():
    cbs = [GradientClip(0.3), GradientAccumulation(7, unit="batches")]
    learner = make(MixedPrecision(**FAST), *cbs)

    learner.fit(4)
    model, _, _ = bare_loop(
        torch.float16, num_epochs=4, n_acc=NUM_BATCHES, max_norm=0.3, **FAST
    )

    assert torch.allclose(weights(learner.model), weights(model), rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped_in_their_own_scale():
    clip = GradientClip(1e9)
    learner = make(clip, MixedPrecision(init_scale=1024.0))
    plain = make(clip_of_plain := GradientClip(1e9))

    learner.fit(1)
    plain.fit(1)

    assert float(clip.norm) == pytest.approx(float(clip_of_plain.norm), rel=0.1)


@pytest.mark.parametrize("mode", ["fp16", "bf16"])
def test_what_others_see_is_float32_and_the_model_predicts_in_half(mode):
    seen = set()
    watch = Watch()
    learner = make(MixedPrecision(mode), watch)
    learner.model.register_forward_hook(lambda m, i, output: seen.add(output.dtype))

    learner.fit(1)
    learner.validate(batches())

    assert watch.dtypes == {torch.float32}
    assert seen == {{"fp16": torch.float16, "bf16": torch.bfloat16}[mode]}
    assert all(p.dtype == torch.float32 for p in learner.model.parameters())


@pytest.mark.parametrize("mode", ["fp16", "bf16"])
def test_precision_is_full_again_outside(mode):
    def broken(pred, target):
        raise ValueError("a bug")

    learner = make(MixedPrecision(mode), loss_func=broken)

    with pytest.raises(ValueError, match="a bug"):
        learner.fit(1)

    assert not torch.is_autocast_enabled("cpu")
    assert learner.model(batches()[0][0]).dtype == torch.float32


class CancelAt(Callback):
    """Cancels in one event of every second batch."""

    run_after = "mixed-precision"

    def __init__(self, event, cancel):
        self.event, self.cancel = event, cancel

    def before_backward(self):
        self._perhaps("before_backward")

    def before_step(self):
        self._perhaps("before_step")

    def after_pred(self):
        self._perhaps("after_pred")

    def _perhaps(self, event):
        if event == self.event and self.training and self.learn.iter % 2:
            raise self.cancel


@pytest.mark.parametrize(
    ("event", "cancel"),
    [
        ("after_pred", CancelBatchException),
        ("before_backward", CancelBackwardException),
        ("before_backward", CancelBatchException),
        ("before_step", CancelStepException),
        ("before_step", CancelBatchException),
        ("before_step", CancelEpochException),
    ],
)
def test_a_cancel_anywhere_leaves_the_scaler_ready(event, cancel):
    learner = make(MixedPrecision(**FAST), CancelAt(event, cancel))

    learner.fit(3)
    learner.fit(2)

    assert torch.isfinite(weights(learner.model)).all()
    assert learner.mixed_precision.state_dict() == {
        **learner.mixed_precision.state_dict(),
        "scale": learner.mixed_precision.scale,
    }


def test_an_error_in_the_middle_of_a_step_leaves_the_next_fit_right():
    class Fail(Callback):
        run_after = "mixed-precision"

        def before_step(self):
            raise RuntimeError("once")

    learner = make(MixedPrecision(**FAST))
    with pytest.raises(RuntimeError, match="once"):
        learner.fit(1, cbs=Fail())

    learner.fit(2)

    assert torch.isfinite(weights(learner.model)).all()


def test_the_scale_goes_on_in_the_next_fit():
    learner = make(MixedPrecision(init_scale=2.0**20))
    learner.fit(1)
    before = learner.mixed_precision.state_dict()
    seen = []

    class Look(Callback):
        run_after = "mixed-precision"

        def before_train(self):
            seen.append(self.learn.mixed_precision.state_dict())

    learner.fit(1, cbs=Look())

    assert before["scale"] < 2.0**20
    assert seen == [before]


@pytest.mark.parametrize("n_acc", [1, 3])
def test_going_on_in_mid_epoch_equals_straight_through(n_acc):
    class Keep(Callback):
        role = "observe"
        states = ()

        def checkpoint(self):
            self.states = [*self.states, copy.deepcopy(self.learn.state_dict())]

    def fresh(*more):
        accumulation = GradientAccumulation(n_acc, unit="batches")
        return make(MixedPrecision(**FAST), GradientClip(1.0), accumulation, *more)

    whole = fresh(keep := Keep())
    whole.fit(2)

    for state in keep.states:
        resumed = fresh()
        resumed.fit(2, resume=state, resume_policy="ignore")
        assert torch.equal(weights(resumed.model), weights(whole.model))
        scale = resumed.mixed_precision.state_dict()
        assert scale == whole.mixed_precision.state_dict()


def test_what_a_loss_scaled_to_infinity_gives_is_left_out_and_training_goes_on():
    learner = make(MixedPrecision(init_scale=2.0**40, growth_interval=100))
    before = weights(learner.model).clone()

    learner.fit(1)

    assert torch.equal(weights(learner.model), before)
    assert learner.mixed_precision.scale == 2.0 ** (40 - NUM_BATCHES)
    learner.fit(5)
    assert not torch.equal(weights(learner.model), before)
    assert torch.isfinite(weights(learner.model)).all()


def test_a_loss_that_is_infinite_itself_ends_the_fit():
    huge = [(x * 1e5, y) for x, y in batches()]

    with pytest.raises(NonFiniteError):
        make(MixedPrecision(), dls=huge).fit(1)
    make(MixedPrecision("bf16"), dls=huge).fit(1)


def test_the_methods_change_the_precision():
    learner = make()

    assert learner.to_fp16(init_scale=8.0) is learner
    assert learner.mixed_precision.amp_mode == "fp16"
    assert learner.to_bf16().mixed_precision.amp_mode == "bf16"
    assert [each for each in learner.cbs if isinstance(each, MixedPrecision)]
    assert "mixed-precision" not in learner.to_fp32().cbs
    assert learner.to_fp32() is learner


@pytest.mark.parametrize("kind", ["regression", "unlabelled", "mapping"])
def test_all_kinds_of_batches_train(kind):
    one, other = (tiny_learner(kind, cbs=MixedPrecision("bf16")) for _ in range(2))

    for learner in (one, other):
        learner.fit(2)

    assert_same_run(one, other)


def test_a_validation_leaves_the_scale_as_it_was():
    learner = make(MixedPrecision(**FAST))
    learner.fit(1)
    before = learner.mixed_precision.state_dict()

    with learner.evaluating("validate"):
        learner.run_validation(batches())

    assert learner.mixed_precision.state_dict() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amp_mode": "fp8"}, 'amp_mode must be "fp16" or "bf16", got \'fp8\''),
        ({"init_scale": 0.0}, "init_scale must be above 0"),
        ({"growth_factor": 1.0}, "growth_factor must be above 1"),
        ({"backoff_factor": 1.0}, "backoff_factor must be from 0 to 1"),
        ({"backoff_factor": math.nan}, "backoff_factor must be from 0 to 1"),
        ({"growth_interval": 0}, "growth_interval must be from 1 on"),
        ({"growth_interval": 2.5}, "growth_interval must be from 1 on"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        MixedPrecision(**options)


def test_weights_in_half_are_refused():
    learner = make(MixedPrecision())
    learner.model.half()

    with pytest.raises(OptionError, match=r"the weight 0\.weight is float16"):
        learner.fit(1)


def test_an_optimizer_that_works_the_loss_out_again_is_refused_in_fp16():
    with pytest.raises(OptionError, match='amp_mode="bf16"'):
        make(MixedPrecision(), opt_func=torch.optim.LBFGS).fit(1)


def test_tensors_in_what_a_model_returns_become_float32():
    half = torch.ones(2, dtype=torch.float16)

    found = in_full_precision({"logits": half, "more": [half, (half, 3)], "x": "text"})

    assert found["logits"].dtype == torch.float32
    assert found["more"][1][0].dtype == torch.float32
    assert found["more"][1][1] == 3
    whole = {"logits": torch.ones(2)}
    assert in_full_precision(whole) is whole


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_with_a_fused_optimizer_no_step_waits_for_the_gpu():
    class NoWaiting(Callback):
        role = "observe"
        run_before = "mixed-precision"

        def before_backward(self):
            torch.cuda.set_sync_debug_mode("error")

        def after_step(self):
            torch.cuda.set_sync_debug_mode("default")

        teardown = after_step

    fused = partial(torch.optim.Adam, fused=True)
    learner = make(MixedPrecision(**FAST), NoWaiting(), opt_func=fused)

    learner.fit(2)

    assert torch.isfinite(weights(learner.model)).all()
