"""Hooks, statistics of activations, summaries, and TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastai.callback import hook as fastai_hook
from torch import Tensor, nn

from callboard_hooks import ActivationStats, HookCallback
from callboard_model_summary import summary
from callboard_tensorboard import TensorBoardCallback, TensorBoardProjectorCallback
from parity.cases import case, difference
from parity.mixing import IMAGES
from parity.problems import (
    MOMENTUM,
    OWN_MOMENTUM,
    Problem,
    images,
    our_watch,
    their_watch,
)


def mean_of(module: nn.Module, input: Any, output: Any) -> Tensor:
    part = output[0] if isinstance(output, tuple) else output
    return part.mean()


@case("HookCallback", "what a hook stored in every batch, of activations and gradients")
def hooked(folder: Path) -> float:
    def stored(learner: Any) -> list[Tensor]:
        callback = getattr(learner, "hooks", None) or learner.hook
        return list(callback.hooks.stored)

    def between(event: str, *, is_forward: bool) -> float:
        watch = our_watch(event, stored), their_watch(event, stored)
        options: dict[str, Any] = {"is_forward": is_forward, "hook": mean_of}
        Problem().ours(HookCallback(**options), watch[0]).fit(2)
        Problem().theirs(fastai_hook.HookCallback(**options), watch[1]).fit(2)
        return difference(watch[0].seen, watch[1].seen)

    return max(
        between("after_pred", is_forward=True),
        between("after_backward", is_forward=False),
    )


def numbers_of(layers: Any) -> list[Any]:
    """Of every layer three numbers, which are compared as one, and the histogram."""
    names = "mean", "std", "near_zero"
    return [[[layer[name] for name in names], layer["hist"]] for layer in layers]


@case("ActivationStats", "mean, deviation, share near zero and histogram, by `every`")
def statistics(folder: Path) -> float:
    def between(every: int | None) -> float:
        options: dict[str, Any] = {"with_hist": True, "every": every}
        ours = Problem().ours(ActivationStats(**options))
        theirs = Problem().theirs(fastai_hook.ActivationStats(**options))
        ours.fit(2)
        theirs.fit(2)
        callbacks = ours.activation_stats, theirs.activation_stats
        return difference(*([map(numbers_of, cb.stats)] for cb in callbacks))

    return max(map(between, (None, 3)))


@case("Learner.summary", "numbers of parameters, and those that learn")
def summed_up(folder: Path) -> float:
    ours, theirs = IMAGES.ours(), IMAGES.theirs()
    found = summary(ours)
    text = str(theirs.summary())
    names = "Total params: ", "Total trainable params: "
    numbers = [int(text.split(name)[1].split()[0].replace(",", "")) for name in names]
    return difference([found.num_params, found.num_trained], numbers)


def scalars(folder: Path, names: Sequence[str]) -> dict[str, list[float]]:
    """Scalars of event files, in the order of their steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    file = next(folder.rglob("events.out*"))
    events = EventAccumulator(str(file.parent))
    events.Reload()
    return {name: [event.value for event in events.Scalars(name)] for name in names}


@case(
    "TensorBoardCallback", "`valid_loss`, metric, smoothed loss and rates in the files"
)
def written(folder: Path) -> float:
    from fastai.callback.tensorboard import TensorBoardCallback as FastaiTensorBoard

    options = {"trace_model": False, "log_preds": False}
    ours, theirs = folder / "ours", folder / "theirs"
    problem = Problem(opt_func=MOMENTUM, fastai_opt_func=OWN_MOMENTUM)
    problem.ours(TensorBoardCallback(ours, **options)).fit(3)
    # Its steps of the validation are left out.
    watch = their_watch("after_step", lambda learn: None)
    callback = FastaiTensorBoard(theirs, **options)
    callback.run_valid = False
    problem.theirs(callback, watch).fit(3)
    names = ["valid_loss", "mean_error", "train_loss", "lr_0", "mom_0"]
    return difference(scalars(ours, names), scalars(theirs, names))


@case("TensorBoardBaseCallback", "vectors that the projector shows")
@case("TensorBoardProjectorCallback", "vectors that the projector shows")
def projected(folder: Path) -> float:
    from fastai.callback.tensorboard import (
        TensorBoardProjectorCallback as FastaiProjector,
    )
    from fastai.torch_core import TensorImage

    # torch wants them square.
    problem = IMAGES.but(train=images(8, 0, width=10), valid=images(8, 1, width=10))
    ours, theirs = problem.ours(), problem.theirs()
    layer = 4  # what the last layer reads
    ours.validate(
        cbs=TensorBoardProjectorCallback(folder / "ours", layer=ours.model[layer])
    )

    # It shows images of fastai's own kind only.
    class AsImages(fastai_hook.Callback):
        order = 20

        def before_batch(self) -> None:
            self.learn.xb = (TensorImage(self.x),)

    projector = FastaiProjector(folder / "theirs", layer=theirs.model[layer])
    theirs.get_preds(cbs=[projector, AsImages()])
    vectors = [
        [list(map(float, line.split("\t"))) for line in file.read_text().splitlines()]
        for file in (
            next((folder / w).rglob("tensors.tsv")) for w in ("ours", "theirs")
        )
    ]
    return difference(*vectors)
