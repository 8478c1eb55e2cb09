"""Sizes over a training, and what is made of images, masks and sequences."""

import copy

import pytest
import torch
from torch import nn

from callboard import Callback, Learner
from callboard.errors import DataError, OptionError
from callboard_progressive_resizing import (
    Growth,
    ProgressiveResizing,
    SequenceLength,
    resized,
    shortened,
)

IMAGES = torch.randn(6, 3, 16, 24, generator=torch.Generator().manual_seed(0))
TOKENS = torch.arange(6 * 32).reshape(6, 32) % 7


class Notes(Callback):
    """Notes the shapes of all batches that the model is given."""

    def __init__(self):
        self.train, self.valid = [], []

    def after_pred(self):
        learn = self.learn
        parts = learn.xb.values() if isinstance(learn.xb, dict) else learn.xb
        shapes = tuple(tuple(part.shape) for part in (*parts, *learn.yb))
        (self.train if learn.training else self.valid).append(shapes)


class OfImages(nn.Sequential):
    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))


class OfSequences(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(7, 4), nn.Linear(4, 7))


def by_position(pred, labels):
    return nn.functional.cross_entropy(pred.flatten(0, 1), labels.flatten())


def run(callback, batch, model, loss_func, num_epochs=10):
    torch.manual_seed(0)
    notes = Notes()
    learner = Learner([[batch] * 1, [batch]], model, loss_func, cbs=[callback, notes])
    learner.fit(num_epochs)
    return learner, notes


def images(callback, **options):
    batch = (IMAGES, torch.arange(6) % 2)
    return run(callback, batch, OfImages(), nn.CrossEntropyLoss(), **options)


def sequences(callback, **options):
    return run(callback, (TOKENS, TOKENS), OfSequences(), by_position, **options)


def test_sizes_grow_in_even_steps_and_are_whole_from_where_they_shall_be():
    growth = Growth("", start=0.5, full_from=0.6, num_sizes=3, multiple_of=4)

    sizes = [growth.size(32, tenth / 10) for tenth in range(11)]

    assert sizes == [16, 16, 16, 24, 24, 24, 32, 32, 32, 32, 32]


def test_a_size_is_never_above_the_whole_nor_nothing():
    growth = Growth("", start=0.1, full_from=1, num_sizes=2, multiple_of=8)

    assert growth.size(20, 0) == 8
    assert growth.size(5, 0) == 5
    assert growth.size(20, 1) == 20  # the whole is not rounded


def test_training_sees_growing_images_and_validation_whole_ones():
    options = {"start": 0.5, "full_from": 0.5, "num_sizes": 2}
    learner, notes = images(ProgressiveResizing(**options))

    sides = [shapes[0][-2:] for shapes in notes.train]
    assert sides == [(8, 12)] * 5 + [(16, 24)] * 5
    assert {shapes[0][-2:] for shapes in notes.valid} == {(16, 24)}
    assert learner.progressive_resizing.sides is None


def test_small_images_look_like_large_ones():
    gradient = torch.linspace(0, 1, 32).expand(2, 1, 16, 32)

    small = resized(gradient, (8, 16), "bilinear")

    assert small.shape == (2, 1, 8, 16)
    assert small.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert small[0, 0, 0].diff().min() > 0


def test_masks_are_shrunk_with_the_images_and_keep_their_classes():
    class Masks(nn.Conv2d):
        def __init__(self):
            super().__init__(3, 2, 1)

    masks = (IMAGES[:, 0] > 0).long()
    options = {"full_from": 1.0, "num_sizes": 2}
    callback = ProgressiveResizing(with_labels=True, **options)
    batch = (IMAGES, masks)
    _, notes = run(callback, batch, Masks(), nn.CrossEntropyLoss(), num_epochs=1)

    assert notes.train == [((6, 3, 8, 12), (6, 8, 12))]
    shrunk = resized(masks, (8, 12), "nearest")
    assert shrunk.dtype == torch.long
    assert set(shrunk.unique().tolist()) == {0, 1}


def test_images_of_bytes_stay_bytes():
    white = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)

    small = resized(white, (4, 4), "bicubic")

    assert small.dtype == torch.uint8
    assert small.unique().tolist() == [255]


def test_what_is_no_image_stays_as_it_is():
    class OfMapping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = OfImages()

        def forward(self, pixels, scale):
            return self.layers(pixels) * scale

    batch = {"pixels": IMAGES, "scale": torch.ones(6, 1), "label": torch.ones(6).long()}
    callback = ProgressiveResizing()
    _, notes = run(callback, batch, OfMapping(), nn.CrossEntropyLoss(), num_epochs=1)

    assert notes.train == [((6, 3, 8, 12), (6, 1), (6,))]


def test_training_sees_growing_sequences_and_labels():
    options = {"start": 0.25, "full_from": 0.5, "num_sizes": 2}
    learner, notes = sequences(SequenceLength(**options))

    assert notes.train == [((6, 8), (6, 8))] * 5 + [((6, 32), (6, 32))] * 5
    assert set(notes.valid) == {((6, 32), (6, 32))}
    assert learner.sequence_length.length is None


def test_split_keeps_every_position():
    short = shortened(TOKENS, 8, "split")

    assert short.shape == (24, 8)
    assert short.flatten().equal(TOKENS.flatten())
    assert shortened(TOKENS, 12, "split").shape == (12, 12)  # 8 of 32 are left over

    _, notes = sequences(SequenceLength(how="split", num_sizes=2), num_epochs=1)
    assert notes.train == [((24, 8), (24, 8))]


def test_labels_of_whole_sequences_stay_with_cut_and_are_refused_by_split():
    class First(OfSequences):
        def forward(self, tokens):
            return super().forward(tokens)[:, 0]

    batch = (TOKENS, torch.arange(6))
    loss_func = nn.CrossEntropyLoss()
    _, notes = run(SequenceLength(), batch, First(), loss_func, num_epochs=1)
    assert notes.train == [((6, 8), (6,))]

    with pytest.raises(DataError, match='Use how="cut"'):
        run(SequenceLength(how="split"), batch, First(), loss_func)


def test_batches_without_sequences_are_refused():
    features = (torch.ones(4, 8), torch.ones(4, 8))
    with pytest.raises(DataError, match="a batch has no sequence"):
        run(SequenceLength(), features, nn.Linear(8, 8), nn.MSELoss())


def test_a_run_that_goes_on_goes_on_with_the_size_that_it_had():
    class Saves(Callback):
        def checkpoint(self):
            if self.learn.position == (6, 0):
                self.saved = copy.deepcopy(self.learn.state_dict())

    saves = Saves()
    _, straight = sequences(SequenceLength(num_sizes=4, full_from=1), num_epochs=10)
    sequences(SequenceLength(num_sizes=4, full_from=1), num_epochs=10)
    learner, _ = sequences(SequenceLength(num_sizes=4, full_from=1), num_epochs=0)
    learner.add_cb(saves)
    learner.fit(10)
    resumed, notes = sequences(SequenceLength(num_sizes=4, full_from=1), num_epochs=0)
    resumed.fit(10, resume=saves.saved, resume_policy="ignore")

    assert notes.train == straight.train[6:]


@pytest.mark.parametrize("kind", [ProgressiveResizing, SequenceLength])
@pytest.mark.parametrize(
    "options",
    [
        {"start": 1},
        {"full_from": 0},
        {"num_sizes": 1},
        {"multiple_of": 1.5},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_out_of_range_are_refused(kind, options):
    with pytest.raises(OptionError, match=f"{kind.name}: {next(iter(options))} must"):
        kind(**options)


def test_unknown_ways_are_refused():
    with pytest.raises(OptionError, match='"bilinear", "bicubic"'):
        ProgressiveResizing(mode="linear")
    with pytest.raises(OptionError, match='"cut" or "split"'):
        SequenceLength(how="pad")
