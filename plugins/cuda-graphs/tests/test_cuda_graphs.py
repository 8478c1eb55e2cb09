"""What is captured and when, with a stand-in for the GPU; and with one where it is."""

import copy

import pytest
import torch
from torch import nn

import callboard_cuda_graphs
from callboard import Callback, Learner
from callboard.errors import CallboardError, CallboardWarning, OptionError
from callboard.testing import tiny_learner
from callboard_cuda_graphs import (
    MOST_SHAPES,
    CudaGraphs,
    capture,
    own_gradients,
    untouched,
    why_not,
    why_not_captured,
)

INPUTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
LABELS = INPUTS.sum(1, keepdim=True)
BATCHES = list(zip(INPUTS.split(8), LABELS.split(8), strict=True))
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class IntoOnePlace(torch.autograd.Function):
    """Writes a result where the last one was, as a replayed graph does."""

    @staticmethod
    def forward(ctx, value, place):
        place.copy_(value)
        return place.detach()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Captures:
    """Stands in for the GPU: runs what was captured, into the same memory each time."""

    def __init__(self):
        self.shapes = []

    def __call__(self, step, tensors):
        self.shapes.append([tuple(t.shape) for t in tensors])
        with torch.no_grad():
            places = [torch.empty_like(t) for t in _leaves(step(*tensors))]

        def replay(*tensors):
            leaves, form = torch.utils._pytree.tree_flatten(step(*tensors))
            written = map(IntoOnePlace.apply, leaves, places)
            return torch.utils._pytree.tree_unflatten(list(written), form)

        return replay


def _leaves(made):
    return torch.utils._pytree.tree_leaves(made)


@pytest.fixture
def captures(monkeypatch):
    captures = Captures()
    monkeypatch.setattr(callboard_cuda_graphs, "capture", captures)
    monkeypatch.setattr(callboard_cuda_graphs, "why_not", lambda learner: "")
    return captures


class Keeps(Callback):
    """Keeps losses and predictions as they are handed out, and looks at them later."""

    role = "observe"

    def __init__(self):
        self.losses, self.predictions = [], []

    def after_batch(self):
        if self.learn.training:
            self.losses.append(self.learn.loss.detach())
            self.predictions.append(self.learn.pred.detach())


def run(*cbs, num_epochs=3, dls=(BATCHES, BATCHES), model=None, device="cpu"):
    torch.manual_seed(1)
    layers = (nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
    model = nn.Sequential(*layers, nn.Linear(16, 1)) if model is None else model
    keeps, loss_func = Keeps(), nn.MSELoss()
    options = {"lr": 0.01, "seed": 0, "device": device}
    learner = Learner(dls, model, loss_func, cbs=[keeps, *cbs], **options)
    learner.fit(num_epochs)
    return learner, keeps


def assert_same(one, other, close=torch.testing.assert_close):
    (learner, keeps), (learner_2, keeps_2) = one, other
    close(torch.stack(keeps.losses), torch.stack(keeps_2.losses))
    close(torch.cat(keeps.predictions), torch.cat(keeps_2.predictions))
    close(learner.model.state_dict(), learner_2.model.state_dict())


def same_bits(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("what", ["model", "step"])
def test_what_is_handed_out_is_not_overwritten_by_the_next_step(captures, what):
    plain, graphed = run(), run(CudaGraphs(what=what))

    assert_same(plain, graphed, same_bits)
    assert graphed[0].cuda_graphs.captured == what
    assert captures.shapes == [[(8, 4), (8, 1)][: 1 + (what == "step")]]


def test_capturing_changes_no_buffer_and_no_random_number():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout())
    before, stream = copy.deepcopy(model.state_dict()), torch.get_rng_state()

    with untouched(model, torch.device("cpu")):
        model(torch.randn(8, 4))

    same_bits(model.state_dict(), before)
    assert torch.get_rng_state().equal(stream)


def test_a_shape_is_captured_when_it_comes_again_and_only_so_many_are(captures):
    sizes = [8, 3, *range(4, 4 + MOST_SHAPES), 8]

    run(CudaGraphs(), num_epochs=1, dls=[(INPUTS[:n], LABELS[:n]) for n in sizes])
    assert [shapes[0][0] for shapes in captures.shapes] == [8]

    run(CudaGraphs(), num_epochs=4, dls=[(INPUTS[:n], LABELS[:n]) for n in sizes])
    assert len(captures.shapes) == 1 + MOST_SHAPES


def test_gradients_that_are_accumulated_are_not_overwritten():
    weight = nn.Parameter(torch.ones(2))
    of_the_graph = torch.tensor([1.0, 2.0])
    weight.grad = of_the_graph

    own_gradients([weight, nn.Parameter(torch.ones(1))])
    of_the_graph.fill_(9)  # the next backward pass

    assert weight.grad.tolist() == [1, 2]


def test_with_a_plugin_between_prediction_and_loss_the_model_is_captured(captures):
    class Doubles(Callback):
        def after_pred(self):
            self.learn.pred = self.learn.pred * 2

    plain, graphed = run(Doubles()), run(Doubles(), CudaGraphs())

    assert graphed[0].cuda_graphs.captured == "model"
    same_bits(torch.stack(plain[1].losses), torch.stack(graphed[1].losses))
    with pytest.raises(OptionError, match='"step" leaves no room for doubles'):
        run(Doubles(), CudaGraphs(what="step"))


def test_weights_that_are_frozen_between_epochs_are_captured_anew(captures):
    class Freezes(Callback):
        def before_epoch(self):
            self.learn.model[0].requires_grad_(self.learn.epoch == 0)

    learner, _ = run(Freezes(), CudaGraphs(), num_epochs=2)

    assert len(captures.shapes) == 2
    assert learner.model[0].weight.grad is None


@pytest.mark.parametrize("kind", ["mapping", "unlabelled", "classification"])
def test_batches_of_all_kinds_are_captured(captures, kind):
    plain, graphed = tiny_learner(kind), tiny_learner(kind, cbs=CudaGraphs())
    plain.fit(3)
    graphed.fit(3)

    same_bits(plain.model.state_dict(), graphed.model.state_dict())
    assert captures.shapes
    assert graphed.cuda_graphs.reason == ""


def test_what_cannot_be_captured_runs_as_ever_and_is_not_tried_again(monkeypatch):
    tried = []

    def failing(step, tensors):
        tried.append(step)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(callboard_cuda_graphs, "capture", failing)
    monkeypatch.setattr(callboard_cuda_graphs, "why_not", lambda learner: "")
    plain = run()
    with pytest.warns(CallboardWarning, match="not permitted when stream is capt"):
        graphed = run(CudaGraphs())

    assert_same(plain, graphed, same_bits)
    assert len(tried) == 1
    assert "failed with RuntimeError" in graphed[0].cuda_graphs.reason


def test_on_a_cpu_it_warns_and_training_runs_as_ever():
    plain = run()
    with pytest.warns(CallboardWarning, match="this is trained on cpu") as warned:
        graphed = run(CudaGraphs())

    assert_same(plain, graphed, same_bits)
    assert len(warned) == 1
    assert "need a GPU" in graphed[0].cuda_graphs.reason


def test_several_processes_are_refused():
    class Two:
        device = torch.device("cuda", 0)
        world_size = 2

    assert "several processes" in why_not(Two())


def test_it_is_known_what_cannot_be_captured():
    learner = tiny_learner()
    inputs = torch.ones(2, 5)

    assert why_not_captured(learner, [inputs]) == ""
    assert "holds str" in why_not_captured(learner, [inputs, "a name"])
    assert "lies on meta" in why_not_captured(learner, [inputs.to("meta")])
    wanting = inputs.clone().requires_grad_()
    assert "gradient itself" in why_not_captured(learner, [wanting])
    learner.model[1].register_forward_hook(lambda *seen: None)
    assert "1 has hooks" in why_not_captured(learner, [inputs])


def test_graphs_are_let_go_with_the_fit_and_go_into_no_copy(captures):
    learner, _ = run(CudaGraphs())

    assert learner.cuda_graphs._graphs == {}
    assert copy.deepcopy(learner).cuda_graphs._weights == []


def test_it_clashes_with_compile():
    with pytest.raises(CallboardError, match="compile"):
        tiny_learner(cbs=[CudaGraphs(), "compile"])


def test_an_unknown_part_is_refused():
    with pytest.raises(OptionError, match='"auto", "model", "step"'):
        CudaGraphs(what="all")


@needs_gpu
@pytest.mark.parametrize("what", ["model", "step"])
def test_on_a_gpu_the_curve_is_that_of_the_plain_run_but_for_rounding(what):
    plain = run(device="cuda")
    graphed = run(CudaGraphs(what=what), device="cuda")

    assert graphed[0].cuda_graphs.reason == ""
    assert_same(plain, graphed)


@needs_gpu
def test_on_a_gpu_gradients_accumulate_over_replays():
    torch.manual_seed(0)
    model = nn.Linear(4, 1).cuda()
    form = torch.utils._pytree.tree_flatten(((INPUTS[:8],), ()))[1]
    step = callboard_cuda_graphs.Step(model, None, form)
    batches = [part.cuda() for part in INPUTS.split(8)]
    graphed = capture(step, batches[:1])

    for batch in batches:
        own_gradients([model.weight, model.bias])
        graphed(batch).sum().backward()

    expected = INPUTS.sum(0, keepdim=True).cuda()  # the gradient of a sum is the input
    torch.testing.assert_close(model.weight.grad, expected)
