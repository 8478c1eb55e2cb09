"""The page about fastai is complete and true to the repository.

What it says was found by ``nox -s parity``, which has fastai. Here, without it, a
few of fastai's formulas are compared with what the plugins do.
"""

import math
import re
from pathlib import Path

import pytest
import torch
from parity import page
from parity.cases import difference
from parity.subjects import CALLBACKS, METHODS, SUBJECTS, list_mistakes
from tests.runs import a_learner, batches, weights
from torch import nn

from callboard import Callback
from callboard_gradient_accumulation import GradientAccumulation
from callboard_gradient_clip import GradientClip
from callboard_recorder import Recorder
from callboard_schedule import fit_one_cycle

ROOT = Path(__file__).parents[1]
PAGE = page.FILE.read_text("utf-8")


def test_all_47_callbacks_of_fastai_have_a_row_and_a_verdict():
    said = page.verdicts(PAGE)

    assert len(CALLBACKS) == 47
    assert list(said) == [*CALLBACKS, *METHODS]
    known = {page.AGREES, page.DIFFERS, page.NOT_OFFERED}
    assert {verdict for _, verdict in said.values()} <= known


def test_every_plugin_that_is_named_exists_and_only_what_is_not_offered_has_none():
    for name, (here, verdict) in page.verdicts(PAGE).items():
        folders = re.findall(r"\(plugins/([\w-]+)\.md\)", here)

        assert [
            folder for folder in folders if not (ROOT / "plugins" / folder).is_dir()
        ] == []
        assert here == page.plugin_of(SUBJECTS[name])
        assert bool(here) == (verdict != page.NOT_OFFERED), name


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_test_that_shows_a_difference_exists(name):
    file, _, test = SUBJECTS[name].shown.partition("::")

    assert not file or f"def {test}(" in (ROOT / file).read_text("utf-8")


@pytest.mark.parametrize("name", SUBJECTS)
def test_reasons_on_the_page_are_those_in_the_list(name):
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))

    assert row.endswith(f"| {page.differences_of(SUBJECTS[name])} |")


def test_another_verdict_contradicts_the_page_and_another_digit_does_not():
    row = "| `GradientClip` | here | agrees | weights: 3e-7 | |"

    assert page.contradictions(row, row.replace("3e-7", "9e-8")) == []
    assert len(page.contradictions(row, row.replace("agrees", "disagrees"))) == 1
    assert len(page.contradictions(row, "")) == 1


def test_a_class_that_fastai_gains_or_loses_is_a_mistake_in_the_list():
    assert list_mistakes(CALLBACKS) == []
    assert len(list_mistakes([*CALLBACKS, "NewCallback"])) == 1
    assert len(list_mistakes(set(CALLBACKS) - {"MixUp"})) == 1


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0, 4.0], [1.0, 4.0004], 1e-4),
        (torch.tensor([0.0, 2.0]), torch.tensor([0.002, 2.0]), 1e-3),
        ({"best": math.nan}, {"best": math.nan}, 0),
        ([math.inf, 1.0], [math.inf, 1.0], 0),
        ([math.inf], [-math.inf], math.inf),
        ([1.0], [1.0, 1.0], math.inf),
        (["a", 1.0], ["b", 1.0], math.inf),
        ({"a": 1}, {"b": 1}, math.inf),
        ([None, [True]], [None, [True]], 0),
    ],
)
def test_differences_are_relative_to_the_largest_number(ours, theirs, expected):
    assert difference(ours, theirs) == pytest.approx(expected, rel=1e-3)


class Rates(Callback):
    """Notes rate and momentum of every step."""

    def __init__(self):
        self.seen = []

    def after_step(self):
        group = self.learn.opt.param_groups[0]
        self.seen.append((group["lr"], group["betas"][0]))


def cosine(start, end, share):
    return start + (1 - math.cos(math.pi * share)) / 2 * (end - start)


def test_one_cycle_is_two_half_cosines_with_fastais_defaults():
    learner, rates = a_learner(8, opt_func=torch.optim.Adam), Rates()

    fit_one_cycle(learner, 2, 0.1, cbs=rates)

    for step, (rate, momentum) in enumerate(rates.seen):
        share = step / 16
        if share < 0.25:
            up = share / 0.25
            expected = cosine(0.1 / 25, 0.1, up), cosine(0.95, 0.85, up)
        else:
            down = (share - 0.25) / 0.75
            expected = cosine(0.1, 0.1 / 1e5, down), cosine(0.85, 0.95, down)
        assert (rate, momentum) == pytest.approx(expected)


def test_the_smooth_loss_is_fastais_bias_corrected_mean():
    recorder = Recorder()
    learner = a_learner(5, cbs=recorder)

    learner.fit(2)

    mean = 0.0
    pairs = zip(recorder.losses, recorder.smooth_losses, strict=True)
    for count, (loss, smooth) in enumerate(pairs, start=1):
        mean = 0.98 * mean + 0.02 * loss
        assert smooth == pytest.approx(mean / (1 - 0.98**count))


def test_accumulated_steps_are_those_of_one_large_batch():
    small = batches(4)
    large = [tuple(torch.cat(parts) for parts in zip(*small, strict=True))]
    options = {"model": None, "loss_func": nn.MSELoss()}
    made = []
    for data, cbs in ((small, [GradientAccumulation(8)]), (large, [])):
        torch.manual_seed(0)
        learner = a_learner(**{**options, "model": nn.Linear(3, 1)}, cbs=cbs)
        learner.dls = (data, None)
        learner.fit(3)
        made.append(weights(learner))

    assert torch.allclose(*made, rtol=1e-5)


def test_a_clipped_step_is_as_long_as_the_norm_allows():
    learner = a_learner(1, cbs=GradientClip(0.01), model=nn.Linear(3, 1))
    before = weights(learner)

    learner.fit(1, 0.1)

    # SGD moves by lr * gradient, whose norm was above the limit.
    assert (weights(learner) - before).norm() == pytest.approx(0.1 * 0.01, rel=1e-4)
