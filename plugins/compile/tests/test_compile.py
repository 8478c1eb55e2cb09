"""The same curve, compiled; and training as ever where nothing can be compiled."""

import pytest
import torch
from torch import nn

from callboard import Callback, Learner
from callboard.errors import CallboardWarning, OptionError
from callboard.testing import tiny_learner
from callboard_compile import MOST_SHAPES, Compile, why_not

INPUTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
LABELS = INPUTS.sum(1, keepdim=True)
BATCHES = list(zip(INPUTS.split(8), LABELS.split(8), strict=True))


class Keeps(Callback):
    role = "observe"

    def __init__(self):
        self.losses = []

    def after_batch(self):
        self.losses.append(self.learn.loss.detach())


def run(*cbs, num_epochs=3, dls=(BATCHES, BATCHES), model=None, **fit):
    torch.manual_seed(1)
    layers = (nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
    model = nn.Sequential(*layers) if model is None else model
    keeps = Keeps()
    loss_func = nn.functional.mse_loss
    learner = Learner(dls, model, loss_func, cbs=[keeps, *cbs], lr=0.01, seed=0)
    learner.fit(num_epochs, **fit)
    return learner, torch.stack(keeps.losses)


def compiled(**options):
    return Compile(**{"backend": "aot_eager", **options})


@pytest.mark.parametrize("what", ["model", "step"])
def test_the_curve_is_that_of_the_plain_run_but_for_rounding(what):
    _, plain = run()
    learner, losses = run(compiled(what=what))

    torch.testing.assert_close(losses, plain)
    assert learner.compile.reason == ""
    assert learner.compile.compiled == what


@pytest.mark.slow
@pytest.mark.skipif(
    why_not("inductor", torch.device("cpu")) != "", reason="no C++ compiler"
)
@pytest.mark.filterwarnings("ignore")
def test_compiled_by_inductor_the_curve_is_the_same_dropout_included():
    _, plain = run()
    learner, losses = run(Compile())

    torch.testing.assert_close(losses, plain)
    assert learner.compile.reason == ""


def test_the_model_itself_keeps_its_class_and_its_names():
    learner, _ = run(compiled(), num_epochs=1)

    assert type(learner.model) is nn.Sequential
    assert next(iter(learner.model.state_dict())) == "0.weight"


def test_a_shape_is_compiled_for_when_it_comes_again_in_an_epoch():
    graphs = []

    def counting(graph, inputs):
        graphs.append([tuple(x.shape) for x in inputs])
        return graph.forward

    smaller = [*BATCHES, (INPUTS[:3], LABELS[:3])]
    run(Compile(backend=counting), num_epochs=3, dls=smaller)

    assert len(graphs) == 1
    assert (8, 4) in graphs[0]


def test_only_so_many_shapes_are_compiled_for():
    sizes = [*range(1, MOST_SHAPES + 4)] * 2
    learner, losses = run(compiled(), dls=[(INPUTS[:n], LABELS[:n]) for n in sizes])

    assert len(learner.compile.seen) == MOST_SHAPES
    assert len(losses) == 3 * len(sizes)


def test_with_a_plugin_between_prediction_and_loss_the_model_is_compiled():
    class Doubles(Callback):
        def after_pred(self):
            self.learn.pred = self.learn.pred * 2

    _, plain = run(Doubles())
    learner, losses = run(Doubles(), compiled())

    assert learner.compile.compiled == "model"
    torch.testing.assert_close(losses, plain)
    with pytest.raises(OptionError, match='"step" leaves no room for doubles'):
        run(Doubles(), compiled(what="step"))


def test_an_observer_of_the_prediction_keeps_nothing_from_being_compiled():
    class Looks(Callback):
        role = "observe"

        def after_pred(self):
            assert self.learn.pred is not None

    learner, _ = run(Looks(), compiled(), num_epochs=1)

    assert learner.compile.compiled == "step"


def test_what_the_compiler_cannot_do_trains_as_ever_and_says_why():
    def broken(graph, inputs):
        raise RuntimeError("no such instruction")

    _, plain = run()
    with pytest.warns(CallboardWarning, match="the model goes uncompiled"):
        learner, losses = run(Compile(backend=broken))

    assert losses.equal(plain)
    assert "no such instruction" in learner.compile.reason


@pytest.mark.filterwarnings("ignore")
def test_an_error_of_the_model_is_the_models():
    class Fails(nn.Linear):
        calls = 0

        def forward(self, inputs):
            Fails.calls += 1
            if Fails.calls > 2:
                raise KeyError("of the model")
            return super().forward(inputs)

    with pytest.raises(KeyError, match="of the model"):
        run(compiled(), model=Fails(4, 1))


def test_without_a_c_compiler_a_cpu_says_so(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)

    _, plain = run()
    learner, losses = run(Compile())

    assert losses.equal(plain)
    assert "no C++ compiler" in learner.compile.reason


def test_a_gpu_needs_triton(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert "triton" in why_not("inductor", torch.device("cuda"))


def test_a_run_that_goes_on_compiles_where_the_saved_one_did():
    straight = compiled()
    run(straight, num_epochs=1)
    resumed = compiled()
    resumed.load_state_dict(straight.state_dict())

    run(resumed, num_epochs=1)

    assert resumed.state_dict() == straight.state_dict()
    assert min(resumed.seen.values()) == 2


def test_a_run_that_goes_on_compiles_for_no_more_shapes_than_the_saved_one():
    sizes = [size for size in range(1, MOST_SHAPES + 4) for _ in range(2)]
    straight, resumed = compiled(), compiled()
    run(straight, num_epochs=1, dls=[(INPUTS[:n], LABELS[:n]) for n in sizes])
    resumed.load_state_dict(straight.state_dict())

    rest = reversed(sizes)
    run(resumed, num_epochs=1, dls=[(INPUTS[:n], LABELS[:n]) for n in rest])

    assert len(straight.seen) == MOST_SHAPES
    assert resumed.state_dict() == straight.state_dict()


def test_batches_that_are_mappings_and_models_with_their_own_loss_are_compiled():
    for kind in ("mapping", "unlabelled"):
        learner = tiny_learner(kind, cbs=compiled())
        learner.fit(2)
        assert learner.compile.reason == ""


def test_an_unknown_part_is_refused():
    with pytest.raises(OptionError, match='"auto", "model", "step"'):
        Compile(what="all")
