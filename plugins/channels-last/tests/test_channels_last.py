"""The memory format of weights and batches, and that no value changes."""

import torch
from torch import nn

from callboard import Callback, Learner
from callboard_channels_last import ChannelsLast, with_channels_last

INPUTS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(INPUTS, INPUTS.mean((1, 2, 3)).unsqueeze(1))] * 2


class Formats(Callback):
    run_after = "channels-last"
    stages = ("fit", "validate")

    def __init__(self):
        self.seen = set()

    def after_pred(self):
        x, weight = self.learn.xb[0], self.learn.model[0].weight
        self.seen.add((is_last(x), is_last(weight)))


def is_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last)


def make(*cbs):
    torch.manual_seed(1)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.Linear(4, 1))
    options = {"opt_func": torch.optim.SGD, "lr": 0.1, "seed": 0}
    return Learner((BATCHES, BATCHES), model, nn.MSELoss(), cbs=[*cbs], **options)


def test_weights_and_inputs_have_their_channels_last():
    learner = make(ChannelsLast(), Formats())
    learner.fit(1)

    assert learner.formats.seen == {(True, True)}


def test_it_learns_what_a_run_without_it_learns():
    plain, turned = make(), make(ChannelsLast())
    plain.fit(2)
    turned.fit(2)

    for one, other in zip(
        plain.model.parameters(), turned.model.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_an_evaluation_before_any_fit_is_turned_too():
    learner = make(ChannelsLast(), Formats())
    learner.validate()

    assert learner.formats.seen == {(True, True)}


def test_the_methods_turn_it_on_once_and_off_again():
    learner = make(Formats())
    assert learner.to_channelslast() is learner
    learner.to_channelslast()
    learner.fit(1)
    assert len(learner.cbs) == 2

    assert learner.to_contiguous() is learner
    learner.to_contiguous()

    assert len(learner.cbs) == 1
    assert learner.model[0].weight.is_contiguous()


def test_mapping_batches_are_turned_by_their_entries():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 8)

        def forward(self, pixels, scale):
            assert is_last(pixels)
            return self.conv(pixels).flatten(1) * scale

    batches = [{"pixels": INPUTS, "scale": torch.ones(4, 1), "labels": BATCHES[0][1]}]
    Learner(batches, Named(), nn.MSELoss(), cbs=ChannelsLast(), lr=0.01).fit(1)


def test_what_is_no_picture_stays_as_it_is():
    for part in (torch.ones(2, 3), "text", None):
        assert with_channels_last(part) is part
