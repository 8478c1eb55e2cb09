"""Samples, tokens and FLOPs a second, counted without reading a value."""

import pytest
import torch
from torch import nn

from callboard import Callback, Learner
from callboard.errors import OptionError
from callboard.testing import cost_of, tiny_learner
from callboard_throughput import Throughput, num_tokens, rates_of


def test_rates_are_counts_by_seconds_and_flops_by_samples():
    rates = rates_of(
        2.0, num_samples=10, num_tokens=40, flops_per_sample=3e12, peak_tflops=60
    )

    assert rates == {
        "samples_per_second": 5.0,
        "tokens_per_second": 20.0,
        "model_tflops_per_second": 15.0,
        "model_flops_utilization": 0.25,
    }


def test_what_is_not_known_is_left_out():
    assert set(rates_of(1.0, num_samples=1)) == {"samples_per_second"}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ((torch.zeros(2, 3, dtype=torch.int64),), 6),
        ((torch.zeros(2, 3), torch.zeros(2, 5, dtype=torch.int32)), 10),
        ((torch.zeros(2, 3, 8, 8, dtype=torch.uint8),), 0),
        ((torch.zeros(4, dtype=torch.int64),), 0),
        ({"mask": torch.ones(2, 9).long(), "input_ids": torch.ones(2, 7).long()}, 14),
        ({"features": torch.ones(2, 9)}, 0),
    ],
    ids=["ids", "second", "pixels", "classes", "named", "features"],
)
def test_tokens_are_the_elements_of_ids_and_neither_pixels_nor_classes(
    inputs, expected
):
    assert num_tokens(inputs) == expected


def test_flops_are_those_of_forward_and_backward_of_one_batch():
    inputs = torch.randn(6, 5)
    throughput = Throughput()
    learner = Learner(
        [(inputs, torch.randn(6, 3))] * 3,
        nn.Linear(5, 3),
        nn.functional.mse_loss,
        cbs=throughput,
    )

    learner.fit(1)

    # 2 * 5 * 3 forward and as many for the weights' gradients; inputs need none.
    assert throughput.flops_per_sample == 60
    assert learner.results["model_tflops_per_second"] > 0


def test_every_epoch_publishes_before_it_ends():
    seen = []

    class Reads(Callback):
        def after_epoch(self):
            seen.append(dict(self.learn.results))

    tiny_learner(cbs=[Throughput(peak_tflops=0.1), Reads()]).fit(2)

    assert len(seen) == 2
    for results in seen:
        assert results["samples_per_second"] > 0
        assert 0 < results["model_flops_utilization"] < 1


def test_tokens_are_counted_by_a_function_of_ones_own():
    learner = tiny_learner(cbs=Throughput(count_tokens=lambda inputs: 7))

    learner.fit(1)

    tokens, samples = (
        learner.results[name] for name in ("tokens_per_second", "samples_per_second")
    )
    # The first of three batches, of 4, 4 and 2 samples, is not timed.
    assert tokens / samples == pytest.approx(14 / 6)


def test_an_epoch_of_one_batch_is_timed_all_the_same():
    inputs = torch.randn(6, 5)
    learner = Learner(
        [(inputs, torch.randn(6, 3))],
        nn.Linear(5, 3),
        nn.functional.mse_loss,
        cbs=Throughput(),
    )

    learner.fit(1)

    assert learner.results["samples_per_second"] > 0


def test_a_batch_that_fails_leaves_no_counter_behind():
    class Fails(Callback):
        def after_loss(self):
            raise RuntimeError("on purpose")

    throughput = Throughput()
    with pytest.raises(RuntimeError, match="on purpose"):
        tiny_learner(cbs=[Fails(), throughput]).fit(1)

    assert throughput._counter is None
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_nothing_is_learned_otherwise_and_no_value_is_read():
    plain, measured = tiny_learner(), tiny_learner(cbs=Throughput())
    plain.fit(2)
    measured.fit(2)

    for one, other in zip(
        plain.model.parameters(), measured.model.parameters(), strict=True
    ):
        assert one.equal(other)
    cost = cost_of(Throughput)
    assert cost.host_reads == 0
    assert cost.tensor_operations == 0
    assert cost.python_calls <= 10


@pytest.mark.parametrize("wrong", [0, -1.0])
def test_a_peak_that_is_none_is_refused(wrong):
    with pytest.raises(OptionError, match=r"throughput: peak_tflops must be above 0"):
        Throughput(peak_tflops=wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_no_step_waits_for_it():
    class Forbids(Callback):
        role = "control"

        def before_train(self):
            torch.cuda.set_sync_debug_mode("error")

        def after_batch(self):
            if self.learn.training and self.learn.iter == self.learn.n_iter - 1:
                torch.cuda.set_sync_debug_mode("default")

    inputs = torch.randn(6, 5, device="cuda")
    learner = Learner(
        [(inputs, torch.randn(6, 3, device="cuda"))] * 5,
        nn.Linear(5, 3),
        nn.functional.mse_loss,
        torch.optim.SGD,
        device="cuda",
        cbs=[Throughput(), Forbids()],
    )

    learner.fit(1)

    assert learner.results["samples_per_second"] > 0
