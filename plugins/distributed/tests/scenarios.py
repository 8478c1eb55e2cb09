"""Fits that are tried in several processes, each a function that returns plain data.

Run as a program it goes through those that are named, in every process that torchrun
has started, and writes what each process got: `scenarios.py FOLDER NAME...`.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from callboard import Callback, Learner
from callboard_distributed import DistributedCallback
from callboard_recorder import Recorder, accuracy, epoch_metric

SHARED = Path(os.environ.get("SHARED", "."))


def is_together():
    return os.environ.get("WORLD_SIZE", "1") != "1"


class Losses(Callback):
    """The loss of every step, of the whole batch."""

    stages = ("fit",)
    run_valid = False

    def __init__(self):
        self.seen = []

    def after_loss(self):
        own, total = self.learn.processes.sizes(self.learn)
        loss = float(self.learn.loss.detach()) * own / total
        self.seen.append(self.learn.processes.sum([loss])[0])


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        return x + torch.relu(self.layer(self.norm(x)))


def a_model(width=6):
    torch.manual_seed(3)
    blocks = [Block(width) for _ in range(3)]
    return nn.Sequential(nn.Linear(4, width), *blocks, nn.Linear(width, 3))


def samples(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=draw)
    return TensorDataset(inputs, (inputs.sum(1) > 0).long() + (inputs[:, 0] > 1).long())


def a_learner(strategy=None, *, train=None, cbs=(), model=None, options=None, **given):
    losses = Losses()
    together = []
    if is_together() and strategy is not None:
        together = [DistributedCallback(strategy, **(options or {}))]
    # 45 samples in batches of 8: the last has 5, of which process 1 gets 2.
    if train is None:
        train = DataLoader(samples(45), 8, shuffle=True)
    valid = DataLoader(samples(21, seed=1), 8)
    learner = Learner(
        (train, valid),
        model or a_model(),
        nn.CrossEntropyLoss(),
        torch.optim.AdamW,
        1e-2,
        seed=5,
        cbs=[*together, losses, Recorder(), *cbs],
        **{"metrics": [accuracy], "device": "cpu", **given},
    )
    return learner, losses


def here(tensor):
    return not tensor.is_meta  # FSDP2's are whole in the main process alone


def outcome(learner, losses):
    """What the fit has come to."""
    state = learner.processes.model_state(learner)
    recorder = learner.recorder
    results = {k: v for k, v in learner.results.items() if k != "time"}
    return {
        "losses": losses.seen,
        "results": results,
        "recorded": recorder.losses,
        "steps": learner.train_iter,
        "weights": [float(t.double().abs().sum()) for t in state.values() if here(t)],
        "rank": learner.rank,
    }


def plain(strategy, **given):
    learner, losses = a_learner(strategy, **given)
    learner.fit(2)
    return outcome(learner, losses)


def ddp():
    return plain("ddp")


def fsdp2():
    return plain("fsdp2")


def hsdp():
    return plain("fsdp2", options={"shard_size": 1})


def recomputed():
    return plain("fsdp2", options={"activation_checkpointing": True})


def bfloat16():
    return plain("fsdp2", options={"precision": "bfloat16"})


def named_blocks():
    return plain("fsdp2", options={"blocks": "Block"})


def with_workers():
    return plain("ddp", train=DataLoader(samples(45), 8, shuffle=True, num_workers=1))


def a_list():
    return plain("ddp", train=list(DataLoader(samples(45), 8)))


class Unindexed:
    """Any iterable of batches, shuffled by the global stream."""

    def __iter__(self):
        data = samples(45)
        order = torch.randperm(45)
        for begin in range(0, 45, 8):
            yield data[order[begin : begin + 8]]


def any_iterable():
    return plain("ddp", train=Unindexed())


class Stream(IterableDataset):
    def __iter__(self):
        yield from samples(45)


def a_stream():
    return plain("fsdp2", train=DataLoader(Stream(), 8))


def one_left_over():
    """41 samples: the last batch has one, and process 1 none of it."""
    return plain("ddp", train=DataLoader(samples(41), 8, shuffle=True))


def one_left_over_fsdp2():
    return plain("fsdp2", train=DataLoader(samples(41), 8, shuffle=True))


def summed_loss():
    learner, losses = a_learner("ddp")
    learner.loss_func = nn.CrossEntropyLoss(reduction="sum")
    learner.fit(1)
    return {"weights": outcome(learner, losses)["weights"]}


def accumulated(strategy="ddp"):
    from callboard_gradient_accumulation import GradientAccumulation

    return plain(strategy, cbs=[GradientAccumulation(20)])


def accumulated_fsdp2():
    return accumulated("fsdp2")


def clipped(strategy="ddp"):
    from callboard_gradient_clip import GradientClip

    return plain(strategy, cbs=[GradientClip(0.1)])


def clipped_fsdp2():
    return clipped("fsdp2")


def scheduled():
    from callboard_schedule import fit_one_cycle

    learner, losses = a_learner("ddp")
    fit_one_cycle(learner, 2, 1e-2)
    return outcome(learner, losses)


def unfrozen():
    learner, losses = a_learner("ddp", model=a_model())
    for parameter in learner.model[0].parameters():
        parameter.requires_grad_(False)
    learner.fit(1)
    learner.unfreeze()
    learner.fit(1)
    return outcome(learner, losses)


def correct(y_true, y_pred):
    return float((y_true == y_pred).mean())


def metrics():
    import torchmetrics

    kinds = [
        accuracy,
        torchmetrics.Accuracy(task="multiclass", num_classes=3),
        epoch_metric(correct),
    ]
    learner, losses = a_learner("ddp", metrics=kinds)
    learner.fit(1)
    fitted = outcome(learner, losses)["results"]
    return {"fitted": fitted, "validated": learner.validate()}


def predictions():
    from callboard_gather_preds import get_preds

    learner, _ = a_learner("fsdp2")
    learner.fit(1)
    preds, _ = get_preds(learner)
    return {"shape": list(preds.shape), "sum": float((preds * torch.arange(3)).sum())}


class StopsAlone(Callback):
    """Asks to stop, in the last process only."""

    def __init__(self, step):
        self.step = step

    def after_step(self):
        is_last = self.learn.rank == self.learn.world_size - 1
        if is_last and self.learn.train_iter + 1 == self.step:
            self.learn.stop("enough")


def stopped_by_one():
    learner, losses = a_learner("ddp", cbs=[StopsAlone(3)])
    learner.fit(2)
    reasons = [learner.stop_reason]
    return {**outcome(learner, losses), "reasons": reasons}


class LosesAlone(Callback):
    def after_loss(self):
        if self.learn.training and self.learn.is_main and self.learn.train_iter == 2:
            self.learn.note_non_finite(3, float("nan"))


def lost_by_one():
    learner, _ = a_learner("ddp", cbs=[LosesAlone()])
    try:
        learner.fit(2)
    except BaseException as error:
        return {**told(error), "steps": learner.train_iter}
    return {"error": None}


def told(error):
    cause = error.__context__ if isinstance(error, SystemExit) else error
    return {
        "error": type(error).__name__,
        "cause": type(cause).__name__,
        "message": str(cause),
    }


class Breaks(Callback):
    """Ends the fit by an error, in every process behind the same batch."""

    run_valid = False

    def __init__(self, step):
        self._last = step  # no option that a run that goes on would have to have

    def after_batch(self):
        if self.learn.train_iter == self._last:
            raise ValueError("broken")


def state_on_main(learner):
    state = learner.processes.model_state(learner)
    return {name: tensor.clone() for name, tensor in state.items() if here(tensor)}


def saved_and_resumed(strategy="ddp", step=9, make_others=list, options=None, **saving):
    from callboard_checkpoint import CheckpointCallback

    undisturbed, _ = a_learner(strategy, cbs=make_others(), options=options)
    undisturbed.fit(2)
    folder = SHARED / "-".join(map(str, [strategy, step, len(make_others()), *saving]))

    def learner(last_step):
        saves = CheckpointCallback("2 steps", folder=folder, **saving)
        cbs = [saves, *make_others(), Breaks(last_step)]
        return a_learner(strategy, cbs=cbs, options=options)[0]

    broken = learner(step)
    try:
        broken.fit(2)
    except BaseException as error:
        ended = told(error)["cause"]
    resumed = learner(1000)
    resumed.fit(2, resume="auto")
    wanted, got = state_on_main(undisturbed), state_on_main(resumed)
    return {
        "ended": ended,
        "is_same": all(torch.equal(wanted[name], got[name]) for name in wanted),
        "results": [
            {k: v for k, v in learner.results.items() if k != "time"}
            for learner in (undisturbed, resumed)
        ],
        "saved": len(list(folder.glob("0*"))),
        "steps": resumed.train_iter,
    }


def saved_and_resumed_fsdp2():
    return saved_and_resumed("fsdp2")


def saved_and_resumed_hsdp():
    return saved_and_resumed("fsdp2", 7, options={"shard_size": 1})


def saved_and_resumed_gathered():
    return saved_and_resumed("fsdp2", sharded=False)


def saved_and_resumed_at_once():
    return saved_and_resumed("fsdp2", async_=False)


def saved_between_steps(strategy="ddp"):
    from callboard_gradient_accumulation import GradientAccumulation

    return saved_and_resumed(strategy, 10, lambda: [GradientAccumulation(40)])


def saved_between_steps_fsdp2():
    return saved_between_steps("fsdp2")


def saves(name):
    from callboard_checkpoint import CheckpointCallback

    learner, losses = a_learner("fsdp2", cbs=[CheckpointCallback(folder=SHARED / name)])
    learner.fit(1)
    return outcome(learner, losses)


def goes_on_from(name):
    from callboard_checkpoint import CheckpointCallback

    saving = CheckpointCallback(folder=SHARED / name)
    learner, losses = a_learner("fsdp2", cbs=[saving])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learner.fit(2, resume="auto")
    said = [str(w.message) for w in caught if "processes is" in str(w.message)]
    return {**outcome(learner, losses), "said": said}


def saved_by_one():
    return saves("by-one")


def saved_by_two():
    return saves("by-two")


def saved_by_four():
    return saves("by-four")


def taken_over_from_one():
    return goes_on_from("by-one")


def taken_over_from_two():
    return goes_on_from("by-two")


def taken_over_from_four():
    return goes_on_from("by-four")


def in_shares():
    from callboard_checkpoint import CheckpointCallback

    folder = SHARED / "in-shares"
    saves = CheckpointCallback(folder=folder, keep=9)
    learner, _ = a_learner("fsdp2", cbs=[saves])
    learner.fit(1)
    [checkpoint] = folder.glob("0*")
    return {
        "files": {file.name: file.stat().st_size for file in checkpoint.iterdir()},
        "left": [p.name for p in folder.iterdir() if "unfinished" in p.name],
        "num_weights": sum(p.numel() for p in a_model().parameters()),
    }


def a_share_is_damaged():
    from callboard_checkpoint import CheckpointCallback

    folder = SHARED / "damaged"
    saves = CheckpointCallback("2 steps", folder=folder, keep=9)
    a_learner("fsdp2", cbs=[saves])[0].fit(1)
    if int(os.environ.get("RANK", "0")) == 0:
        newest, before = sorted(folder.glob("0*"))[:-3:-1]
        share = next(newest.glob("shard-00002-*"))
        content = bytearray(share.read_bytes())
        content[-1] ^= 1
        share.write_bytes(content)
        next(before.glob("shard-00001-*")).unlink()
    learner, _ = a_learner("fsdp2", cbs=[CheckpointCallback(folder=folder, keep=9)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learner.fit(1, resume="auto")
    said = [str(w.message) for w in caught if "damaged" in str(w.message)]
    return {"said": said, "steps": learner.train_iter}


def one_cannot_write():
    from callboard_checkpoint import CheckpointCallback, shards

    writer, saves_tried = shards.HuggingFaceStorageWriter, []

    class Full(writer):
        def write_data(self, plan, planner):
            saves_tried.append(1)
            if len(saves_tried) == 2 and dist.get_rank() == 1:
                raise OSError(28, "No space left on device")
            return super().write_data(plan, planner)

    shards.HuggingFaceStorageWriter = Full
    saves = CheckpointCallback("2 steps", folder=SHARED / "full", async_=False)
    learner, _ = a_learner("fsdp2", cbs=[saves])
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learner.fit(1)
    finally:
        shards.HuggingFaceStorageWriter = writer
    return {
        "said": [str(w.message) for w in caught if "not be saved" in str(w.message)],
        "saved": sorted(path.name for path in (SHARED / "full").glob("0*")),
        "left": len(list((SHARED / "full").glob(".*unfinished/*"))),
        "steps": learner.train_iter,
    }


def one_does_not_see_the_folder():
    from callboard_checkpoint import CheckpointCallback, callback

    sees = callback.sees
    callback.sees = lambda *given: dist.get_rank() == 0
    found = {}
    try:
        for sharded in (None, True):
            folder = SHARED / f"unseen-{sharded}"
            saves = CheckpointCallback(folder=folder, sharded=sharded)
            learner, _ = a_learner("fsdp2", cbs=[saves])
            try:
                learner.fit(1)
            except BaseException as error:
                found[str(sharded)] = told(error)
            else:
                files = [path.name for path in folder.glob("0*/*")]
                found[str(sharded)] = {"files": sorted(files)}
    finally:
        callback.sees = sees
    return found


class Extra(Callback):
    name = "extra"


def unlike():
    rank = int(os.environ.get("RANK", "0"))
    learner, _ = a_learner("ddp", cbs=[Extra()] if rank else [])
    try:
        learner.fit(1)
    except BaseException as error:
        return told(error)
    return {"error": None}


def where():
    learner, _ = a_learner("ddp")
    return {
        "rank": learner.rank,
        "world_size": learner.world_size,
        "is_main": learner.is_main,
        "device": str(learner.device),
    }


def run(names, folder):
    rank = os.environ.get("RANK", "0")
    for name in names:
        try:
            got = globals()[name]()
        except Exception:
            import traceback

            got = {"crashed": traceback.format_exc()}
        Path(folder, f"{name}-{rank}.json").write_text(json.dumps(got))
        if "crashed" in got:
            print(name, rank, got["crashed"], file=sys.stderr)
            os._exit(1)


if __name__ == "__main__":
    warnings.simplefilter("error")
    run(sys.argv[2:], sys.argv[1])
