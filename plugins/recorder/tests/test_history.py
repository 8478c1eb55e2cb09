import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_recorder.history import StepHistory


def history_of(num_steps, *, beta=0.98, max_points=10_000, at_once=64):
    history = StepHistory(beta, max_points)
    for start in range(1, num_steps + 1, at_once):
        steps = list(range(start, min(start + at_once, num_steps + 1)))
        losses = [1 / step for step in steps]
        history.extend(steps, losses, [{"lr": step} for step in steps])
    return history


def test_the_smooth_loss_is_the_average_without_its_start_at_zero():
    history = StepHistory(beta=0.9)

    history.extend([1, 2, 3], [4.0, 2.0, 1.0], [{}, {}, {}])

    # (0.1 * 4, then 0.9 * that + 0.1 * 2, ...) / (1 - 0.9**n)
    first, second, third = 0.4, 0.56, 0.604
    expected = [first / 0.1, second / 0.19, third / 0.271]
    assert history.smooth_losses == pytest.approx(expected)
    assert history.smooth_loss == pytest.approx(expected[-1])


def test_without_smoothing_the_smooth_loss_is_the_loss():
    history = history_of(5, beta=0.0)

    assert history.smooth_losses == history.losses


def test_there_is_no_smooth_loss_before_the_first_step():
    assert StepHistory().smooth_loss is None


@given(
    num_steps=st.integers(1, 400),
    max_points=st.integers(2, 50),
    at_once=st.integers(1, 70),
)
def test_thinning_holds_few_even_steps_the_first_and_the_latest(
    num_steps, max_points, at_once
):
    history = history_of(num_steps, max_points=max_points, at_once=at_once)

    even = [
        step for step in range(1, num_steps + 1) if (step - 1) % history.stride == 0
    ]
    latest = [] if even[-1] == num_steps else [num_steps]
    assert history.steps == [*even, *latest]
    assert len(history.steps) <= max_points
    assert history.stride == 1 or len(even) > max_points / 2 - 1
    assert history.losses == [1 / step for step in history.steps]
    assert history.hypers == [{"lr": step} for step in history.steps]


def test_thinning_does_not_change_the_smooth_loss():
    assert history_of(300, max_points=4).smooth_loss == history_of(300).smooth_loss


@given(num_steps=st.integers(1, 60), kept=st.integers(0, 60), more=st.integers(0, 60))
def test_a_history_that_was_cut_goes_on_evenly(num_steps, kept, more):
    history = history_of(num_steps, max_points=10)

    history.cut(kept)
    steps = list(range(kept + 1, kept + more + 1)) if kept < num_steps else []
    history.extend(steps, [0.0] * len(steps), [{}] * len(steps))

    assert len(history.steps) <= 10
    assert history.steps == sorted(set(history.steps))
    if steps:
        assert history.steps[-1] == steps[-1]


@given(st.integers(0, 200), st.integers(1, 200))
def test_a_restored_history_goes_on_as_the_one_that_was_saved(before, after):
    saved = history_of(before, max_points=20)
    restored = StepHistory(max_points=20)

    restored.load_state_dict(saved.state_dict())
    steps = list(range(before + 1, before + after + 1))
    for history in (saved, restored):
        history.extend(steps, [1 / step for step in steps], [{}] * len(steps))

    assert restored.state_dict() == saved.state_dict()
