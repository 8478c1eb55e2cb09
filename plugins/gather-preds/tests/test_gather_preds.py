"""What is collected, in which order, and that collecting changes nothing."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from callboard import Callback, CancelBatchException, DataLoaders, Learner
from callboard.errors import OptionError
from callboard_gather_preds import (
    GatherPredsCallback,
    get_preds,
    in_order,
    joined,
    loader_over_all,
    on_cpu,
)
from callboard_recorder import Recorder

NUM_ITEMS = 10  # in batches of 4, the last has 2


def make_data(num_items=NUM_ITEMS):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num_items, 4, generator=generator)
    return TensorDataset(inputs, torch.arange(num_items) % 3)


def make_learner(*cbs, train=None, valid=None, loss_func="cross entropy", **options):
    torch.manual_seed(0)
    data = make_data()
    return Learner(
        DataLoaders(
            train or DataLoader(data, 4, shuffle=True, drop_last=True),
            DataLoader(data, 4) if valid is None else valid,
        ),
        options.pop("model", None) or nn.Linear(4, 3),
        nn.CrossEntropyLoss() if loss_func == "cross entropy" else loss_func,
        lr=0.1,
        cbs=[*cbs],
        seed=0,
        **options,
    )


def scores_of(learner, data=None):
    inputs, _ = (data or make_data()).tensors
    with torch.no_grad():
        return learner.model.eval()(inputs)


def unchanged(pred):
    return pred


# ---- what is returned ---------------------------------------------------------


def test_predictions_and_targets_are_those_of_the_validation_data():
    learner = make_learner()

    preds, targets = get_preds(learner)

    torch.testing.assert_close(preds, scores_of(learner).softmax(1))
    assert torch.equal(targets, make_data().tensors[1])


def test_all_that_can_be_asked_for_comes_in_fastais_order():
    learner = make_learner()

    inputs, preds, targets, decoded, losses = get_preds(
        learner, with_input=True, with_decoded=True, with_loss=True
    )

    all_inputs, labels = make_data().tensors
    scores = scores_of(learner)
    assert torch.equal(inputs, all_inputs)
    torch.testing.assert_close(preds, scores.softmax(1))
    assert torch.equal(targets, labels)
    assert torch.equal(decoded, scores.argmax(1))
    expected = functional.cross_entropy(scores, labels, reduction="none")
    torch.testing.assert_close(losses, expected)


def test_what_is_not_wanted_is_none():
    preds, targets = get_preds(make_learner(), with_preds=False, with_targs=False)

    assert (preds, targets) == (None, None)


def test_training_data_comes_whole_and_in_order_however_its_loader_shuffles():
    learner = make_learner()

    preds, targets = get_preds(learner, ds_idx=0, act=unchanged)

    torch.testing.assert_close(preds, scores_of(learner))
    assert torch.equal(targets, make_data().tensors[1])


def test_other_data_can_be_given():
    data = make_data(7)
    learner = make_learner()

    preds, _ = get_preds(learner, dl=DataLoader(data, 3), act=unchanged)

    torch.testing.assert_close(preds, scores_of(learner, data))


@pytest.mark.parametrize("as_batch", [tuple, list, lambda parts: parts[0]])
def test_data_without_labels_has_no_targets(as_batch):
    inputs, _ = make_data().tensors
    batches = [as_batch([inputs[:4]]), as_batch([inputs[4:]])]

    preds, targets, losses = get_preds(make_learner(), dl=batches, with_loss=True)

    assert preds.shape == (NUM_ITEMS, 3)
    assert (targets, losses) == (None, None)


def test_act_replaces_the_activation_of_the_loss():
    learner = make_learner()

    preds, _ = get_preds(learner, act=torch.tanh)

    torch.testing.assert_close(preds, scores_of(learner).tanh())


class OwnActivation(nn.CrossEntropyLoss):
    def activation(self, scores):
        return scores + 100

    def decodes(self, preds):
        return preds.sum(1)


@pytest.mark.parametrize(
    ("loss_func", "activation", "decode"),
    [
        (nn.CrossEntropyLoss(), partial(torch.softmax, dim=1), lambda p: p.argmax(1)),
        (
            partial(functional.cross_entropy, label_smoothing=0.1),
            partial(torch.softmax, dim=1),
            lambda p: p.argmax(1),
        ),
        (nn.NLLLoss(), unchanged, unchanged),
        (OwnActivation(), lambda s: s + 100, lambda p: p.sum(1)),
    ],
)
def test_activation_and_decoding_belong_to_the_loss(loss_func, activation, decode):
    learner = make_learner(loss_func=loss_func)

    preds, _, decoded = get_preds(learner, with_decoded=True)

    expected = activation(scores_of(learner))
    torch.testing.assert_close(preds, expected)
    torch.testing.assert_close(decoded, decode(expected))


def test_binary_losses_from_logits_have_a_sigmoid_and_a_half():
    inputs, labels = make_data().tensors
    batches = [(inputs, functional.one_hot(labels, 3).float())]
    learner = make_learner(valid=batches, loss_func=nn.BCEWithLogitsLoss())

    preds, _, decoded = get_preds(learner, with_decoded=True)

    torch.testing.assert_close(preds, scores_of(learner).sigmoid())
    assert torch.equal(decoded, scores_of(learner) > 0)


def test_losses_of_items_with_several_are_their_means():
    inputs, _ = make_data().tensors
    targets = torch.randn(NUM_ITEMS, 3)
    batches = [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]
    learner = make_learner(valid=batches, loss_func=nn.MSELoss())

    _, _, losses = get_preds(learner, with_loss=True)

    expected = (scores_of(learner) - targets).square().mean(1)
    torch.testing.assert_close(losses, expected)


class Several(nn.Module):
    """Takes two inputs and makes several predictions."""

    def __init__(self, kind=tuple):
        super().__init__()
        self.linear, self.kind = nn.Linear(4, 3), kind

    def forward(self, first, second):
        both = self.linear(first), second * 2
        return dict(zip("ab", both, strict=True)) if self.kind is dict else both


def several_batches():
    inputs, labels = make_data().tensors
    parts = (inputs, torch.arange(NUM_ITEMS), labels, labels + 1)
    return [tuple(p[:4] for p in parts), tuple(p[4:] for p in parts)]


def several_loss(pred, first, second):
    return torch.zeros(())


def test_tuples_of_inputs_predictions_and_targets_are_joined_part_by_part():
    batches = several_batches()
    learner = make_learner(loss_func=several_loss, model=Several())
    learner.dls = DataLoaders(batches, batches, num_inputs=2)

    inputs, preds, targets = get_preds(learner, with_input=True)

    for part in (*inputs, *preds, *targets):
        assert part.shape[0] == NUM_ITEMS
    assert torch.equal(preds[1], 2 * torch.arange(NUM_ITEMS))
    assert torch.equal(targets[1], make_data().tensors[1] + 1)


def test_mappings_of_inputs_and_predictions_are_joined_by_key():
    batches = [
        {"first": b[0], "second": b[1], "labels": b[2]} for b in several_batches()
    ]
    learner = make_learner(
        valid=batches, loss_func=lambda pred, y: torch.zeros(()), model=Several(dict)
    )

    inputs, preds, targets = get_preds(learner, with_input=True)

    assert set(inputs) == {"first", "second"}
    assert torch.equal(preds["b"], 2 * torch.arange(NUM_ITEMS))
    assert torch.equal(targets, make_data().tensors[1])


def test_model_that_returns_its_loss_predicts_with_and_without_labels():
    class OwnLoss(nn.Linear):
        def forward(self, pixels, labels=None):
            scores = super().forward(pixels)
            if labels is None:
                return {"scores": scores}
            loss = functional.cross_entropy(scores, labels)
            return {"loss": loss, "scores": scores}

    inputs, labels = make_data().tensors
    learner = make_learner(loss_func=None, model=OwnLoss(4, 3))

    with_labels, _ = get_preds(learner, dl=[{"pixels": inputs, "labels": labels}])
    without, _ = get_preds(learner, dl=[{"pixels": inputs}])

    torch.testing.assert_close(with_labels["scores"], scores_of(learner)["scores"])
    torch.testing.assert_close(without["scores"], scores_of(learner)["scores"])


def test_predictions_that_do_not_fit_together_are_a_list_of_batches():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 3)

        def forward(self, inputs):
            return self.linear(inputs).transpose(1, 2)

    batches = [
        (torch.randn(2, length, 1), torch.zeros(2, length, dtype=torch.long))
        for length in (3, 5)
    ]
    learner = make_learner(valid=batches, model=Positions())

    preds, targets, decoded = get_preds(learner, with_decoded=True)

    assert [pred.shape for pred in preds] == [(2, 3, 3), (2, 3, 5)]
    torch.testing.assert_close(preds[1].sum(1), torch.ones(2, 5))
    assert [part.shape for part in decoded] == [(2, 3), (2, 5)]
    assert [target.shape for target in targets] == [(2, 3), (2, 5)]


def test_batches_are_joined_along_the_dimension_asked_for():
    batches = [(torch.randn(4, 4), torch.zeros(4, 3))] * 2
    learner = make_learner(valid=batches, loss_func=nn.MSELoss())

    preds, targets = get_preds(learner, concat_dim=1)

    assert (preds.shape, targets.shape) == ((4, 6), (4, 6))


def test_batch_that_was_cancelled_leaves_no_trace():
    class CancelSecond(Callback):
        stages = ("predict",)

        def before_batch(self):
            if self.iter == 1:
                raise CancelBatchException

    preds, targets, losses = get_preds(
        make_learner(), with_loss=True, cbs=CancelSecond()
    )

    _, labels = make_data().tensors
    assert torch.equal(targets, torch.cat([labels[:4], labels[8:]]))
    assert len(preds) == len(losses) == 6


def test_given_callbacks_change_predictions_and_are_gone_afterwards():
    class Halve(Callback):
        stages = ("predict",)

        def after_pred(self):
            self.learn.pred = self.learn.pred / 2

    learner = make_learner()
    before = learner.cbs.keys()

    preds, _ = get_preds(learner, act=unchanged, cbs=Halve)

    torch.testing.assert_close(preds, scores_of(learner) / 2)
    assert learner.cbs.keys() == before


def test_given_callbacks_that_would_do_nothing_are_refused():
    class Halve(Callback):
        def after_pred(self):
            self.learn.pred = self.learn.pred / 2

    learner = make_learner()

    with pytest.raises(OptionError, match=r'halve .* Give it stages = \("predict",\)'):
        get_preds(learner, cbs=Halve())

    assert "halve" not in learner.cbs


@pytest.mark.parametrize("ds_idx", [1, 2, -1, "valid"])
def test_data_that_there_is_not_is_refused(ds_idx):
    learner = make_learner()
    learner.dls.valid = None

    with pytest.raises(OptionError, match="no data with ds_idx="):
        get_preds(learner, ds_idx)


def test_losses_of_a_model_that_returns_its_own_are_refused():
    learner = make_learner(loss_func=None)

    with pytest.raises(OptionError, match="gather-preds: with_loss needs a loss"):
        get_preds(learner, with_loss=True)


def test_error_in_collecting_is_raised_and_not_returned_as_fewer_predictions():
    def my_loss(pred, label):
        return functional.cross_entropy(pred, label)

    with pytest.raises(OptionError, match="my_loss gives no loss of each single item"):
        get_preds(make_learner(loss_func=my_loss), with_loss=True)


# ---- files --------------------------------------------------------------------


def test_every_batch_is_written_to_a_file_and_none_is_kept(tmp_path):
    learner = make_learner()

    preds, targets = get_preds(
        learner,
        save_preds=tmp_path / "preds",
        save_targs=tmp_path / "targets",
        with_preds=False,
        with_targs=False,
    )

    def read(folder):
        files = sorted((tmp_path / folder).iterdir())
        assert [f.name for f in files] == [f"{n:06d}.pt" for n in range(3)]
        return torch.cat([torch.load(f, weights_only=True) for f in files])

    assert (preds, targets) == (None, None)
    torch.testing.assert_close(read("preds"), scores_of(learner))
    assert torch.equal(read("targets"), make_data().tensors[1])


def test_folder_with_batches_of_another_run_is_refused(tmp_path):
    learner = make_learner()
    get_preds(learner, save_preds=tmp_path)

    with pytest.raises(OptionError, match="already holds batches"):
        get_preds(learner, save_preds=tmp_path)


# ---- the order of the items ---------------------------------------------------


class LongestFirst:
    """A batch sampler of the user's own."""

    def __init__(self, generator=None):
        self.generator = generator

    def __iter__(self):
        yield [9, 0, 8]
        yield [7, 1]
        yield [5, 6, 2, 3, 4]

    def __len__(self):
        return 3


DATA = make_data()
LOADERS = {
    "plain": lambda: DataLoader(DATA, 4),
    "shuffled": lambda: DataLoader(DATA, 4, shuffle=True),
    "shuffled, dropping the last": lambda: DataLoader(
        DATA, 4, shuffle=True, drop_last=True
    ),
    "shuffled by a generator": lambda: DataLoader(
        DATA, 4, shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
    "batch sampler of torch": lambda: DataLoader(
        DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 3, drop_last=True)
    ),
    "batch sampler of one's own": lambda: DataLoader(
        DATA, batch_sampler=LongestFirst()
    ),
    "items without batches": lambda: DataLoader(
        [(x[None], y[None]) for x, y in DATA], batch_size=None, shuffle=True
    ),
    "workers": lambda: DataLoader(
        DATA, 4, shuffle=True, num_workers=2, persistent_workers=True
    ),
    "list of batches": lambda: list(DataLoader(DATA, 4)),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_results_come_in_the_order_of_the_dataset(kind):
    learner = make_learner(valid=LOADERS[kind]())

    inputs, preds, targets, losses = get_preds(
        learner, with_input=True, with_loss=True, act=unchanged
    )

    scores, labels = scores_of(learner), DATA.tensors[1]
    assert torch.equal(inputs, DATA.tensors[0])
    torch.testing.assert_close(preds, scores)
    assert torch.equal(targets, labels)
    expected = functional.cross_entropy(scores, labels, reduction="none")
    torch.testing.assert_close(losses, expected)


def test_sampler_that_chooses_still_chooses():
    valid = DataLoader(DATA, 2, sampler=SubsetRandomSampler([7, 2, 5]))

    (inputs, *_) = get_preds(make_learner(valid=valid), with_input=True)

    assert torch.equal(inputs, DATA.tensors[0][[2, 5, 7]])


def test_indices_of_samplers_are_sorted_where_they_are_numbers():
    with_replacement = RandomSampler(DATA, replacement=True)
    weighted = WeightedRandomSampler([0.0, 1.0, 0.0], 4)
    torch.manual_seed(0)

    assert in_order(RandomSampler(DATA)) == range(NUM_ITEMS)
    assert len(in_order(RandomSampler(DATA, num_samples=3))) == 3
    drawn = in_order(with_replacement)
    assert drawn == sorted(drawn)
    assert len(set(drawn)) < NUM_ITEMS
    assert in_order(weighted) == [1, 1, 1, 1]
    assert in_order(["b", "a"]) == ["b", "a"]


def test_without_reorder_the_loader_decides():
    valid = DataLoader(DATA, batch_sampler=LongestFirst())

    inputs, *_ = get_preds(make_learner(valid=valid), with_input=True, reorder=False)

    assert torch.equal(inputs, DATA.tensors[0][[9, 0, 8, 7, 1, 5, 6, 2, 3, 4]])


def test_batches_of_different_shapes_cannot_be_reordered_and_say_so():
    class Words(Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            length = 2 if index in (9, 0, 8) else 3
            return torch.zeros(length, 4), torch.zeros(length, dtype=torch.long)

    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, words):
            return self.linear(words).transpose(1, 2)

    valid = DataLoader(Words(), batch_sampler=LongestFirst())
    learner = make_learner(valid=valid, model=Scores())

    with pytest.raises(OptionError, match="Give reorder=False"):
        get_preds(learner)

    assert len(get_preds(learner, reorder=False)[0]) == 3


def test_dataset_without_indices_comes_as_it_is_but_whole():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from DATA

    valid = DataLoader(Stream(), 4, drop_last=True)

    inputs, *_ = get_preds(make_learner(valid=valid), with_input=True)

    assert torch.equal(inputs, DATA.tensors[0])


def test_loader_with_an_iteration_of_its_own_is_used_as_it_is():
    class Twice(DataLoader):
        def __iter__(self):
            yield from super().__iter__()
            yield from super().__iter__()

    loader = Twice(DATA, 4)

    assert loader_over_all(loader, reorder=True) == (loader, None)


def test_collation_and_workers_of_the_loader_are_kept():
    def collate(items):
        inputs, labels = zip(*items, strict=True)
        return torch.stack(inputs) * 10, torch.stack(labels)

    valid = DataLoader(DATA, 4, shuffle=True, collate_fn=collate, num_workers=1)
    twin, _ = loader_over_all(valid, reorder=True)

    inputs, *_ = get_preds(make_learner(valid=valid), with_input=True)

    assert (twin.num_workers, twin.batch_size) == (1, 4)
    assert torch.equal(inputs, DATA.tensors[0] * 10)


# ---- that it changes nothing --------------------------------------------------


class Dropped(nn.Module):
    """Everything that an evaluation could disturb: dropout and running statistics."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        )

    def forward(self, inputs):
        return self.layers(inputs)


class Predict(Callback):
    """Predicts in the middle of a fit, on the loader that is running."""

    def __init__(self, event, reorder):
        setattr(self, event, self.predict)
        self.reorder = reorder

    def predict(self):
        before = loop_state(self.learn)
        get_preds(self.learn, ds_idx=0, with_loss=True, reorder=self.reorder)
        get_preds(self.learn, ds_idx=1, with_input=True, reorder=self.reorder)
        assert loop_state(self.learn) == before


class Draw(Callback):
    """Draws from every random stream there is."""

    def __init__(self):
        self.draws = []

    def after_batch(self):
        numbers = torch.rand(()).item(), random.random(), np.random.rand()
        self.draws.append((*numbers, self.rng.random()))


def loop_state(learn):
    names = ("stage", "training", "epoch", "n_epoch", "iter", "n_iter", "train_iter")
    more = ("pct_train", "stop_reason")
    things = ("dl", "xb", "yb", "pred", "loss", "opt", "model", "record")
    return {
        **{name: getattr(learn, name) for name in (*names, *more)},
        **{name: id(getattr(learn, name)) for name in things},
        "modes": [module.training for module in learn.model.modules()],
        "results": dict(learn.results),
        "plugins": learn.cbs.keys(),
        "random numbers": torch.get_rng_state().tolist(),
    }


def run(*cbs, workers=0):
    """Weights, recorder rows and random draws of a fit."""
    torch.manual_seed(0)
    draw, recorder = Draw(), Recorder()
    generator = torch.Generator().manual_seed(5)
    settings = {"num_workers": workers, "persistent_workers": workers > 0}
    learner = make_learner(
        draw,
        recorder,
        *cbs,
        model=Dropped(),
        train=DataLoader(DATA, 4, shuffle=True, generator=generator, **settings),
        valid=DataLoader(DATA, 4, **settings),
    )
    learner.fit(2)
    rows = [{**row, "time": None} for row in recorder.values]
    state = {name: t.tolist() for name, t in learner.model.state_dict().items()}
    return state, rows, recorder.losses, draw.draws, generator.get_state().tolist()


@pytest.mark.parametrize("reorder", [True, False])
@pytest.mark.parametrize(
    "event",
    [
        "before_fit",
        "before_epoch",
        "before_train",
        "before_batch",
        "after_pred",
        "after_loss",
        "after_backward",
        "after_step",
        "after_batch",
        "after_train",
        "before_validate",
        "after_validate",
        "after_epoch",
        "after_fit",
    ],
)
def test_predicting_in_the_middle_of_a_fit_changes_no_bit_of_it(event, reorder):
    assert run(Predict(event, reorder)) == run()


def test_predicting_on_the_running_loader_with_its_workers_changes_no_bit_of_it():
    assert run(Predict("after_step", False), workers=1) == run(workers=1)


def test_predicting_before_any_fit_changes_no_bit_of_the_fit():
    def weights(*, predict):
        learner = make_learner()
        if predict:
            get_preds(learner)
        learner.fit(1)
        return learner.model.weight.tolist()

    assert weights(predict=True) == weights(predict=False)


def test_error_in_a_prediction_leaves_the_learner_as_it_was():
    class Fail(Callback):
        stages = ("predict",)

        def after_pred(self):
            raise RuntimeError("a fault")

    learner = make_learner()
    before = learner.cbs.keys()

    with pytest.raises(RuntimeError, match="a fault"):
        get_preds(learner, cbs=Fail())

    assert (learner.stage, learner.cbs.keys()) == ("fit", before)
    assert len(get_preds(learner)[0]) == NUM_ITEMS


def test_predictions_hold_no_graph_and_no_memory_of_the_model():
    memory = torch.zeros(4, 3)

    class Reuses(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, inputs):
            out = memory[: len(inputs)]
            out.copy_(self.linear(inputs))
            return out

    learner = make_learner(model=Reuses())

    preds, _ = get_preds(learner, act=unchanged)

    with torch.no_grad():
        expected = learner.model.linear(DATA.tensors[0])
    assert not preds.requires_grad
    torch.testing.assert_close(preds, expected)


# ---- the callback and its parts -----------------------------------------------


def test_callback_takes_part_in_predictions_only():
    gather = GatherPredsCallback()
    learner = make_learner(gather)

    learner.fit(1)
    learner.validate()
    assert gather.preds is None

    with learner.evaluating("predict"):
        learner.run_validation()
    assert gather.preds.shape == (NUM_ITEMS, 3)


def test_scalars_are_stacked_and_texts_listed_item_by_item():
    assert joined([torch.tensor(1.0), torch.tensor(2.0)], 0).tolist() == [1.0, 2.0]
    assert joined([["a", "b"], ["c"]], 0) == ["a", "b", "c"]
    assert joined([None, None], 0) is None
    assert joined([], 0) is None


def test_parts_that_only_some_batches_have_are_listed():
    one = torch.ones(2)

    assert joined([one, None], 0)[1] is None


def test_copies_have_the_structure_of_the_original():
    data = {"a": (torch.ones(1), ["text"]), "b": [torch.zeros(2)]}

    copy = on_cpu(data)

    assert copy["a"][1] == ["text"]
    assert isinstance(copy["b"], list)
    assert copy["a"][0].data_ptr() != data["a"][0].data_ptr()
