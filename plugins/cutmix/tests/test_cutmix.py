"""Boxes by their closed forms, and what a run makes of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from callboard import Callback, CancelBatchException, DataLoaders, Learner
from callboard.errors import ActivationError, DataError, OptionError
from callboard.state import RandomStream
from callboard_cutmix import Box, CutMix, box_around, draw_box
from callboard_mixup import MixUp

HEIGHT, WIDTH = 6, 8


class Capture(Callback):
    """Keeps inputs, labels, prediction and loss of every batch."""

    run_after = "cutmix"

    def __init__(self):
        self.seen = []

    def after_loss(self):
        learn = self.learn
        self.seen.append((learn.xb, learn.yb, learn.pred.detach(), learn.loss.detach()))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(HEIGHT * WIDTH * 2, 3)

    def forward(self, images, *others):
        return self.linear(images.float().flatten(1))


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def make_data(num_items=6):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(num_items, 2, HEIGHT, WIDTH, generator=generator)
    return images, torch.arange(num_items) % 3


def make_learner(batches, *cbs, model=None, loss_func="cross entropy", seed=0):
    torch.manual_seed(0)
    if loss_func == "cross entropy":
        loss_func = nn.CrossEntropyLoss()
    model = model or Classifier()
    return Learner(
        DataLoaders(batches, batches),
        model,
        loss_func,
        torch.optim.SGD,
        lr=0.1,
        cbs=[*cbs],
        seed=seed,
    )


def first_draw(num_items=6, seed=0, height=HEIGHT, width=WIDTH):
    """Box and partners of the first batch that ``CutMix()`` sees in a Learner."""
    learner = make_learner([make_data()], CutMix(), seed=seed)
    stream = learner.cutmix.rng
    box = draw_box(stream, 1.0, height, width)
    return box, torch.randperm(num_items, generator=stream)


def fit_one_batch(batch, **options):
    """Inputs, labels, prediction and loss of the training batch, then of validation."""
    capture = Capture()
    make_learner([batch], CutMix(), capture, **options).fit(1)
    return capture.seen


# ---- the pure functions -------------------------------------------------------


def test_box_has_the_sides_that_leave_the_share():
    # A quarter is cut: half of each side, 50 x 100 around row 40 and column 60.
    assert box_around(40, 60, 0.75, 100, 200) == Box(15, 65, 10, 110)


def test_box_beyond_the_edge_is_cut_off_and_leaves_more():
    box = box_around(0, 199, 0.75, 100, 200)

    assert box == Box(0, 25, 149, 200)
    assert box.share_outside(100, 200) == 1 - 25 * 51 / 20_000


def test_sides_are_rounded_and_halved():
    # Half of 7 is 3.5, rounded to the even 4; half of 6 is 3, halved without the rest.
    assert box_around(3, 3, 0.75, 7, 6) == Box(1, 5, 2, 4)


@pytest.mark.parametrize(
    ("share", "box"), [(1.0, Box(4, 4, 4, 4)), (0.0, Box(0, 8, 0, 8))]
)
def test_everything_may_be_left_and_nothing(share, box):
    assert box_around(4, 4, share, 8, 8) == box
    assert box.share_outside(8, 8) == share


def test_pasting_writes_into_new_images():
    images = torch.stack([torch.zeros(1, 3, 3), torch.ones(1, 3, 3)])

    pasted = Box(0, 2, 1, 3).pasted(images, torch.tensor([1, 0]))

    assert pasted[0, 0].tolist() == [[0, 1, 1], [0, 1, 1], [0, 0, 0]]
    assert pasted[1, 0].tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 1]]
    assert images.sum() == 9


def test_pasting_keeps_the_memory_format():
    images = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)

    pasted = Box(0, 2, 0, 2).pasted(images, torch.tensor([1, 0]))

    assert pasted.is_contiguous(memory_format=torch.channels_last)


def test_drawn_boxes_lie_in_the_image_and_centres_everywhere():
    stream = RandomStream()
    stream.manual_seed(0)

    boxes = [draw_box(stream, 1.0, 5, 9) for _ in range(500)]

    assert all(0 <= b.top <= b.bottom <= 5 for b in boxes)
    assert all(0 <= b.left <= b.right <= 9 for b in boxes)
    assert {b.top for b in boxes if b.top == b.bottom} == set(range(5))


# ---- in a fit -----------------------------------------------------------------


def test_the_box_of_the_partner_is_pasted_and_class_labels_kept():
    images, labels = make_data()

    training, validation = fit_one_batch((images, labels))

    box, partner = first_draw()
    expected = images.clone()
    for item, other in enumerate(partner.tolist()):
        for row in range(box.top, box.bottom):
            for column in range(box.left, box.right):
                expected[item, :, row, column] = images[other, :, row, column]
    xb, yb, pred, loss = training
    assert 0 < box.share_outside(HEIGHT, WIDTH) < 1
    assert_same(xb[0], expected)
    assert_same(yb[0], labels)
    share = box.share_outside(HEIGHT, WIDTH)
    own = functional.cross_entropy(pred, labels)
    other = functional.cross_entropy(pred, labels[partner])
    torch.testing.assert_close(loss, share * own + (1 - share) * other)
    assert_same(validation[0][0], images)


def test_gradients_are_those_of_the_loss_to_soft_labels():
    images, labels = make_data()
    learner = make_learner([(images, labels)], CutMix())
    model = Classifier()
    model.load_state_dict(learner.model.state_dict())
    box, partner = first_draw()

    learner.fit(1)

    share = box.share_outside(HEIGHT, WIDTH)
    one_hot = functional.one_hot(labels, 3).float()
    soft = share * one_hot + (1 - share) * one_hot[partner]
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    functional.cross_entropy(model(box.pasted(images, partner)), soft).backward()
    opt.step()
    torch.testing.assert_close(learner.model.linear.weight, model.linear.weight)


def test_labels_that_are_numbers_are_blended_by_area():
    images, labels = make_data()[0], torch.randn(6, 3)

    (_, yb, pred, loss), _ = fit_one_batch((images, labels), loss_func=nn.MSELoss())

    box, partner = first_draw()
    share = box.share_outside(HEIGHT, WIDTH)
    torch.testing.assert_close(yb[0], share * labels + (1 - share) * labels[partner])
    assert_same(loss, functional.mse_loss(pred, yb[0]))


@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_labels_that_are_maps_get_the_same_box(kind):
    images = make_data()[0]
    labels = torch.arange(6)[:, None, None].expand(6, HEIGHT, WIDTH).to(kind).clone()

    class PixelByPixel(nn.Conv2d):
        def forward(self, images):
            return super().forward(images)

    def loss_func(pred, label):
        return functional.mse_loss(pred[:, 0], label.float())

    (_, yb, pred, loss), _ = fit_one_batch(
        (images, labels), model=PixelByPixel(2, 1, 1), loss_func=loss_func
    )

    box, partner = first_draw()
    assert_same(yb[0], box.pasted(labels, partner))
    assert yb[0].dtype == kind
    assert_same(loss, loss_func(pred, yb[0]))


def test_images_of_bytes_are_pasted_as_bytes():
    images = (make_data()[0] * 50).to(torch.uint8)

    (xb, *_), _ = fit_one_batch((images, make_data()[1]))

    box, partner = first_draw()
    assert_same(xb[0], box.pasted(images, partner))


def test_all_frames_of_a_video_get_one_box():
    class Video(Classifier):
        def forward(self, frames):
            return super().forward(frames.mean(2))

    images, labels = make_data()
    frames = torch.stack([images, images + 1, images + 2], 2)

    (xb, *_), _ = fit_one_batch((frames, labels), model=Video())

    box, partner = first_draw()
    assert_same(xb[0], box.pasted(frames, partner))


def test_other_inputs_stay_as_they_are():
    images, labels = make_data()
    numbers, scale = torch.randn(6, 5), torch.tensor(2.0)

    (xb, *_), _ = fit_one_batch((images, numbers, scale, labels))

    assert_same(xb[1], numbers)
    assert_same(xb[2], scale)


def test_batches_that_are_mappings_are_pasted():
    class ByName(Classifier):
        def forward(self, pixels, number):
            return super().forward(pixels)

    images, labels = make_data()
    batch = {"pixels": images, "number": torch.arange(6), "labels": labels}

    (xb, *_), _ = fit_one_batch(batch, model=ByName())

    box, partner = first_draw()
    assert_same(xb["pixels"], box.pasted(images, partner))
    assert_same(xb["number"], torch.arange(6))


def test_the_data_itself_is_left_alone():
    images, labels = make_data()
    before = images.clone()

    make_learner([(images, labels)], CutMix()).fit(3)

    assert_same(images, before)


def test_a_batch_of_one_item_is_trained_as_it_is():
    images, labels = make_data(1)

    (xb, _, pred, loss), _ = fit_one_batch((images, labels))

    assert_same(xb[0], images)
    torch.testing.assert_close(loss, functional.cross_entropy(pred, labels))


def test_batches_without_labels_are_left_alone():
    class SeeInputs(Callback):
        run_after = "cutmix"

        def after_pred(self):
            self.inputs = self.learn.x

    images, see = make_data()[0], SeeInputs()

    make_learner([(images,)], CutMix(), see).fit(1)

    assert_same(see.inputs, images)


def test_two_runs_with_one_seed_agree_and_with_another_do_not():
    def weights(seed):
        learner = make_learner([make_data()] * 3, CutMix(), seed=seed)
        learner.fit(2)
        return learner.model.linear.weight.detach()

    assert_same(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_removing_it_leaves_the_plain_run():
    def weights(*cbs, remove=None):
        learner = make_learner([make_data()] * 3, *cbs)
        if remove:
            learner.remove_cb(remove)
        learner.fit(2)
        return learner.model.linear.weight.detach()

    assert_same(weights(CutMix(), remove="cutmix"), weights())


def test_it_takes_part_in_the_search_for_a_learning_rate_and_in_no_evaluation():
    capture = Capture()
    capture.stages = ("lr-find", "validate")
    learner = make_learner([make_data()], CutMix(), capture)

    with learner.evaluating("lr-find"):
        learner.fit(1)
    learner.validate()

    images = make_data()[0]
    changed = [not torch.equal(xb[0], images) for xb, *_ in capture.seen]
    assert changed == [True, False, False]


def test_nothing_stays_replaced_when_a_batch_is_cancelled_or_fails():
    class Disturb(Callback):
        run_after = "cutmix"

        def after_pred(self):
            if self.learn.iter == 0:
                raise CancelBatchException
            if self.learn.iter == 2:
                raise RuntimeError("a fault")

    loss_func = nn.CrossEntropyLoss()
    learner = make_learner([make_data()] * 3, CutMix(), Disturb(), loss_func=loss_func)

    with pytest.raises(RuntimeError, match="a fault"):
        learner.fit(1)

    images, labels = make_data()
    assert learner.loss_func is loss_func
    assert learner.validate()["valid_loss"] == pytest.approx(
        functional.cross_entropy(learner.model(images), labels).item()
    )


# ---- what is refused ----------------------------------------------------------


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_alpha_that_is_not_above_zero_is_refused_with_a_good_one(alpha):
    with pytest.raises(OptionError, match=r"cutmix: alpha must be .* Use 1\.0"):
        CutMix(alpha)


@pytest.mark.parametrize("shape", [(6, 4), (6, HEIGHT, WIDTH)])
def test_inputs_that_are_no_images_are_refused_with_their_shapes(shape):
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    batch = (torch.randn(shape), make_data()[1])
    learner = make_learner([batch], CutMix(), model=model)

    with pytest.raises(DataError, match=r"cutmix: no input .* \(6, .* use mixup"):
        learner.fit(1)


def test_images_of_several_sizes_are_refused():
    images, labels = make_data()
    batch = (images, torch.randn(6, 1, 3, 3), labels)

    with pytest.raises(DataError, match=r"several sizes \(3x3, 6x8\)"):
        make_learner([batch], CutMix()).fit(1)


def test_maps_beside_other_labels_are_refused():
    images, labels = make_data()
    batch = (images, labels, torch.zeros(6, HEIGHT, WIDTH))
    learner = make_learner([batch], CutMix())
    learner.dls.num_inputs = 1

    with pytest.raises(DataError, match="1 of 2 labels tell something of every pixel"):
        learner.fit(1)


def test_classes_need_a_loss_of_single_items():
    def my_loss(pred, label):
        return functional.cross_entropy(pred, label)

    learner = make_learner([make_data()], CutMix(), loss_func=my_loss)

    with pytest.raises(OptionError, match="my_loss gives no loss of each single item"):
        learner.fit(1)


def test_learner_without_a_loss_func_is_refused_before_training():
    class OwnLoss(Classifier):
        def forward(self, images, labels):
            return functional.cross_entropy(super().forward(images), labels)

    learner = make_learner([make_data()], CutMix(), model=OwnLoss(), loss_func=None)

    with pytest.raises(OptionError, match="cutmix: the Learner has no loss_func"):
        learner.fit(1)


def test_it_refuses_to_run_beside_mixup():
    with pytest.raises(ActivationError, match="conflicts with"):
        make_learner([make_data()], MixUp(), CutMix())
