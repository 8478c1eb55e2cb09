"""The GANTrainer: whose turn it is, and what that means for a batch."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from callboard import Callback, hookimpl
from callboard.errors import DataError, OptionError
from callboard_gan.networks import GANModule

MAX_POINTS = 10_000
BATCHES_PER_READ = 64
# What a search for a learning rate must leave as it was.
HISTORY = ("_gen_losses", "_crit_losses", "imgs", "titles", "last_gen")


@dataclass
class SmoothedLosses:
    """A bias-corrected exponential mean of one network's losses, batch by batch.

    Losses stay on the device until somebody asks, or 64 are waiting. Of more than
    10,000 points every second is dropped, then every fourth, and so on.
    """

    beta: float
    points: list[float] = field(default_factory=list)
    mean: float = 0.0
    count: int = 0
    stride: int = 1
    total: float = 0.0
    num_in_epoch: int = 0
    waiting: list[Tensor] = field(default_factory=list)

    def add(self, loss: Tensor) -> None:
        """Take the loss of one more batch."""
        self.waiting.append(loss.detach())
        if len(self.waiting) >= BATCHES_PER_READ:
            self.read()

    def read(self) -> None:
        """Read what waits on the device: the only place that waits for it."""
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        for loss in torch.stack([each.float().mean() for each in waiting]).tolist():
            self.total += loss
            self.num_in_epoch += 1
            self.count += 1
            self.mean = self.beta * self.mean + (1 - self.beta) * loss
            if self.count % self.stride == 0:
                self.points.append(self.mean / (1 - self.beta**self.count))
                self._thin()

    def _thin(self) -> None:
        if len(self.points) >= MAX_POINTS:
            del self.points[::2]
            self.stride *= 2

    def end_epoch(self) -> float | None:
        """The plain mean of the epoch that ends; None where there was no batch."""
        self.read()
        mean = self.total / self.num_in_epoch if self.num_in_epoch else None
        self.total, self.num_in_epoch = 0.0, 0
        return mean

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        self.read()
        names = ("points", "mean", "count", "stride", "total", "num_in_epoch")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.waiting = []
        for name, value in state.items():
            setattr(self, name, list(value) if name == "points" else value)


class GANTrainer(Callback):
    """Trains the generator or the critic of a ``GANModule``, as its mode says.

    Args:
        switch_eval: Put the network that is not trained into evaluation mode.
        clip: Keep every weight of the critic between ``-clip`` and ``clip``.
        beta: Share of the old mean in the means of losses, 0 <= beta < 1.
        gen_first: Begin a fit with the generator.
        show_img: Keep the first item that the generator made last in each epoch.

    Attributes:
        gen_mode: Whether the generator is trained now, or the critic. True in
            evaluations, where the generator answers.
        imgs: What was kept of each epoch, on the CPU.
        titles: ``"Epoch 0"``, ...
        last_gen: What the generator made last in training.
    """

    name = "gan-trainer"
    role = "modify"
    stages = ("fit", "validate", "predict", "lr-find")
    conflicts_with: Mapping[str, str] = {
        "bn-freeze": "the network that waits is frozen too, and its normalisation "
        "would stay so in its own turn",
        "cutmix": "a real item is no label, to be mixed as the input is",
        "gradient-accumulation": "its windows would span turns of both networks",
        "mixup": "a real item is no label, to be mixed as the input is",
    }

    def __init__(
        self,
        switch_eval: bool = False,
        clip: float | None = None,
        beta: float = 0.98,
        gen_first: bool = False,
        show_img: bool = True,
    ) -> None:
        if clip is not None and not 0 < clip < math.inf:
            raise OptionError(
                f"{self.name}: clip must be a number above 0, or None, got {clip!r}. "
                "Use 0.01."
            )
        if not 0 <= beta < 1:
            raise OptionError(
                f"{self.name}: beta must be at least 0 and below 1, got {beta!r}. Use "
                "0.98."
            )
        self.switch_eval = switch_eval
        self.clip = clip
        self.gen_first = gen_first
        self.show_img = show_img
        self.gen_mode = gen_first
        self.last_gen: Tensor | None = None
        self.imgs: list[Tensor] = []
        self.titles: list[str] = []
        self.beta = beta
        self._gen_losses = SmoothedLosses(beta)
        self._crit_losses = SmoothedLosses(beta)
        # Whose turn it is in training, while an evaluation runs.
        self._turn: bool | None = None
        # Parameters that are trained when it is their turn; None outside of a fit.
        self._trained: set[int] | None = None

    @property
    def gen_losses(self) -> list[float]:
        """The mean of the generator's losses, at each of its batches."""
        self._gen_losses.read()
        return self._gen_losses.points

    @property
    def crit_losses(self) -> list[float]:
        """The mean of the critic's losses, at each of its batches."""
        self._crit_losses.read()
        return self._crit_losses.points

    @property
    def gan(self) -> GANModule:
        """The pair of networks, also inside a wrapper such as DataParallel.

        Raises:
            OptionError: The Learner's model is no pair.
        """
        model: Any = self.learn.model
        for each in (model, getattr(model, "module", None)):
            if isinstance(each, GANModule):
                return each
        raise OptionError(
            f"{self.name}: the model must be GANModule(generator, critic), got "
            f"{type(model).__name__}. gan_learner(...) makes a Learner with one."
        )

    def switch(self, gen_mode: bool | None = None) -> None:
        """Train the generator from now on, or the critic; None: the other one."""
        self.gen_mode = not self.gen_mode if gen_mode is None else gen_mode
        self._take_turns()

    def _take_turns(self) -> None:
        """Make the networks ready for whose turn it is."""
        gan = self.gan
        gan.switch(self.gen_mode)
        turn, other = (
            (gan.generator, gan.critic)
            if self.gen_mode
            else (gan.critic, gan.generator)
        )
        for parameter in turn.parameters():
            parameter.requires_grad_(self._is_trained(parameter))
        for parameter in other.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None  # the optimizer leaves it alone then
        if self.switch_eval and self.learn.training:
            turn.train()
            other.eval()

    def _is_trained(self, parameter: nn.Parameter) -> bool:
        return self._trained is None or id(parameter) in self._trained

    @hookimpl(wrapper=True)
    def do_fit(self) -> Generator[None, Any, Any]:
        """Take turns inside a fit, and leave both networks as they were."""
        gan = self.gan
        flags = [(each, each.requires_grad) for each in gan.parameters()]
        before = self._trained, self.gen_mode
        history = {name: getattr(self, name) for name in HISTORY}
        if self._trained is None:  # else it is inside a fit, with one network frozen
            self._trained = {id(each) for each, requires in flags if requires}
        self._begin()
        try:
            return (yield)
        finally:
            self._trained, self.gen_mode = before
            for parameter, requires in flags:
                parameter.requires_grad_(requires)
            is_nested = self._trained is not None
            if not is_nested:  # a resumed fit has found whose turn it was in the middle
                self.gen_mode = self.gen_first
            gan.switch(self.gen_mode if is_nested else True)
            if self.learn.stage != "fit":
                vars(self).update(history)

    def _begin(self) -> None:
        self._gen_losses = SmoothedLosses(self.beta)
        self._crit_losses = SmoothedLosses(self.beta)
        self.imgs, self.titles, self.last_gen = [], [], None
        self._clamp()
        self.switch(self.gen_first)

    @hookimpl(wrapper=True)
    def do_validate(self) -> Generator[None, Any, Any]:
        """Let the generator answer in evaluations, whose turn it ever is."""
        gan = self.gan
        answering, training, outside = gan.gen_mode, self.gen_mode, self._turn
        self._turn = training if outside is None else outside
        self.gen_mode = True
        gan.switch(True)
        try:
            return (yield)
        finally:
            self.gen_mode, self._turn = training, outside
            gan.switch(answering)

    def before_train(self) -> None:
        """Put the modes of the networks right, which the loop has just set."""
        self._take_turns()
        for losses in (self._gen_losses, self._crit_losses):
            losses.end_epoch()  # of one that was cancelled before its end

    def before_batch(self) -> None:
        """Give the critic real items for inputs, and for targets what fakes are of."""
        learner = self.learn
        if not learner.training:
            return
        if isinstance(learner.xb, dict) or not learner.yb:
            raise DataError(
                f"{self.name}: a batch must be a pair (what the generator takes, real "
                "items), and this one is none. Let the dataset give pairs."
            )
        if not self.gen_mode:
            learner.xb, learner.yb = tuple(learner.yb), tuple(learner.xb)

    def after_step(self) -> None:
        """Keep the critic's weights between the bounds."""
        if not self.gen_mode:
            self._clamp()

    @torch.no_grad()
    def _clamp(self) -> None:
        if self.clip is not None:
            for parameter in self.gan.critic.parameters():
                parameter.clamp_(-self.clip, self.clip)

    def after_batch(self) -> None:
        """Keep the loss of whoever was trained."""
        learner = self.learn
        if not learner.training or learner.loss is None:
            return
        (self._gen_losses if self.gen_mode else self._crit_losses).add(learner.loss)
        if self.gen_mode and isinstance(learner.pred, Tensor):
            self.last_gen = learner.pred.detach()

    def after_train(self) -> None:
        """Publish the epoch's mean loss of each network that was trained."""
        results = self.learn.results
        for name, losses in (
            ("gen_loss", self._gen_losses),
            ("crit_loss", self._crit_losses),
        ):
            mean = losses.end_epoch()
            if mean is not None:
                results[name] = mean

    def after_epoch(self) -> None:
        """Keep an item that the generator made."""
        if self.show_img and self.last_gen is not None:
            self.imgs.append(self.last_gen[0].to("cpu", copy=True))
            self.titles.append(f"Epoch {self.learn.epoch}")

    def plot_imgs(self, num_columns: int = 4) -> Any:
        """Draw what the generator made in each epoch, and return the figure.

        Args:
            num_columns: How many images stand side by side.

        Raises:
            OptionError: No image was kept.
        """
        if not self.imgs:
            raise OptionError(
                f"{self.name}: no image was kept; train with show_img=True and a "
                "generator that takes its turn in every epoch."
            )
        import matplotlib.pyplot as plt

        num_rows = -(-len(self.imgs) // num_columns)
        size = (2 * num_columns, 2.2 * num_rows)
        figure, axes = plt.subplots(num_rows, num_columns, figsize=size, squeeze=False)
        for place in axes.flat:
            place.axis("off")
        for place, image, title in zip(axes.flat, self.imgs, self.titles, strict=False):
            place.imshow(as_picture(image).numpy(), cmap="gray")
            place.set_title(title)
        return figure

    def state_dict(self) -> dict[str, Any]:
        """Whose turn it is, the losses so far, and what is never trained."""
        trained = self._trained
        frozen = [
            name
            for name, parameter in self.gan.named_parameters()
            if trained is not None and id(parameter) not in trained
        ]
        return {
            "gen_mode": self.gen_mode if self._turn is None else self._turn,
            "is_fitting": trained is not None,
            "frozen": frozen,
            "gen_losses": self._gen_losses.state_dict(),
            "crit_losses": self._crit_losses.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.gen_mode = state["gen_mode"]
        self._gen_losses.load_state_dict(state["gen_losses"])
        self._crit_losses.load_state_dict(state["crit_losses"])
        if self._trained is not None:
            self._take_turns()
        elif state["is_fitting"]:
            # The state of the model has one network frozen, which only lasts a turn.
            frozen: Sequence[str] = state["frozen"]
            for name, parameter in self.gan.named_parameters():
                parameter.requires_grad_(name not in frozen)


def as_picture(image: Tensor) -> Tensor:
    """An image of shape (C, H, W) or (H, W), any range, for drawing: from 0 to 1."""
    image = image.float()
    low, high = image.min(), image.max()
    image = (image - low) / (high - low).clamp_min(1e-8)
    if image.ndim == 3:
        return image[0] if image.shape[0] != 3 else image.permute(1, 2, 0)
    return image.reshape(1, -1) if image.ndim < 2 else image
