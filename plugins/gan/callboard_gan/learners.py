"""Learners for GANs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from callboard import Callback, Learner
from callboard.errors import OptionError
from callboard.optim import Rate, Splitter
from callboard_gan.losses import (
    CriticLoss,
    GANLoss,
    GeneratorLoss,
    gan_loss_from_func,
    wgan_critic_loss,
    wgan_generator_loss,
)
from callboard_gan.networks import GANModule
from callboard_gan.switchers import FixedGANSwitcher
from callboard_gan.trainer import GANTrainer

OptFunc = Callable[..., torch.optim.Optimizer]


def gan_splitter(model: Any) -> list[list[nn.Parameter]]:
    """Two parameter groups: those of the generator and those of the critic.

    All of them, frozen or not: whose turn it is changes within a fit.
    """
    return [list(model.generator.parameters()), list(model.critic.parameters())]


def gan_learner(
    dls: Any,
    generator: nn.Module,
    critic: nn.Module,
    gen_loss_func: GeneratorLoss,
    crit_loss_func: CriticLoss,
    *,
    switcher: Callback | None = None,
    gen_first: bool = False,
    switch_eval: bool = True,
    show_img: bool = True,
    clip: float | None = None,
    cbs: Any = None,
    metrics: Any = None,
    opt_func: OptFunc = torch.optim.Adam,
    lr: Rate = 1e-3,
    splitter: Splitter = gan_splitter,
    path: str | Path = ".",
    device: str | torch.device | None = None,
    seed: int | None = None,
    train_bn: bool = True,
) -> Learner:
    """A Learner for a GAN.

    Args:
        dls: Batches of pairs: what the generator takes, and real items.
        generator: Makes items.
        critic: Says of items how real they look.
        gen_loss_func: Of what the critic says of fakes, the fakes, and the real items.
        crit_loss_func: Of what the critic says of real items, and of fakes.
        switcher: Decides whose turn it is. Default: ``FixedGANSwitcher()``.
        gen_first: As in ``GANTrainer``, and so the next three.
        switch_eval: Put the network that is not trained into evaluation mode.
        show_img: Keep an item that the generator made in each epoch.
        clip: Bounds of the critic's weights.
        cbs: As for ``Learner``, and so all that follow.
        metrics: Metrics of what the generator makes.
        opt_func: Makes the optimizer.
        lr: Learning rate; ``[1e-4, 4e-4]`` for generator and critic.
        splitter: Parameter groups.
        path: Where plugins put files.
        device: Where model and batches go.
        seed: What all random numbers of training derive from.
        train_bn: Whether norms keep training while frozen.
    """
    model = GANModule(generator, critic, gen_mode=True)
    trainer = GANTrainer(
        switch_eval=switch_eval, clip=clip, gen_first=gen_first, show_img=show_img
    )
    is_many = isinstance(cbs, Sequence) and not isinstance(cbs, str)
    given = list(cbs) if is_many else [cbs] if cbs is not None else []
    return Learner(
        dls,
        model,
        GANLoss(gen_loss_func, crit_loss_func, model),
        opt_func,
        lr,
        metrics=metrics,
        cbs=[trainer, FixedGANSwitcher() if switcher is None else switcher, *given],
        splitter=splitter,
        path=path,
        device=device,
        seed=seed,
        train_bn=train_bn,
    )


def wgan_learner(
    dls: Any,
    generator: nn.Module,
    critic: nn.Module,
    *,
    switcher: Callback | None = None,
    clip: float | None = 0.01,
    switch_eval: bool = False,
    gen_first: bool = False,
    show_img: bool = True,
    cbs: Any = None,
    metrics: Any = None,
    opt_func: OptFunc = torch.optim.Adam,
    lr: Rate = 1e-3,
    splitter: Splitter = gan_splitter,
    path: str | Path = ".",
    device: str | torch.device | None = None,
    seed: int | None = None,
    train_bn: bool = True,
) -> Learner:
    """A Learner for a Wasserstein GAN: clipped weights, five critic batches to one.

    Arjovsky et al. 2017, arXiv:1701.07875. Options are those of ``gan_learner``.
    """
    return gan_learner(
        dls,
        generator,
        critic,
        wgan_generator_loss,
        wgan_critic_loss,
        switcher=FixedGANSwitcher(n_crit=5, n_gen=1) if switcher is None else switcher,
        clip=clip,
        switch_eval=switch_eval,
        gen_first=gen_first,
        show_img=show_img,
        cbs=cbs,
        metrics=metrics,
        opt_func=opt_func,
        lr=lr,
        splitter=splitter,
        path=path,
        device=device,
        seed=seed,
        train_bn=train_bn,
    )


def gan_from_learners(
    gen_learn: Learner,
    crit_learn: Learner,
    *,
    switcher: Callback | None = None,
    weights_gen: Sequence[float] | None = None,
    gen_first: bool = False,
    switch_eval: bool = True,
    show_img: bool = True,
    clip: float | None = None,
    cbs: Any = None,
    metrics: Any = None,
    opt_func: OptFunc = torch.optim.Adam,
    lr: Rate = 1e-3,
    splitter: Splitter = gan_splitter,
    path: str | Path = ".",
    device: str | torch.device | None = None,
    seed: int | None = None,
    train_bn: bool = True,
) -> Learner:
    """A Learner for a GAN of two networks that were trained before, each on its own.

    Data are those of ``gen_learn``; losses are made of those of both by
    ``gan_loss_from_func``. Options are those of ``gan_learner``.

    Raises:
        OptionError: One of the Learners has no ``loss_func``.
    """
    for name, learner in (("gen_learn", gen_learn), ("crit_learn", crit_learn)):
        if learner.loss_func is None:
            raise OptionError(
                f"gan: {name} has no loss_func to make a loss of. Give it "
                "Learner(loss_func=...), or call gan_learner with both losses."
            )
    assert gen_learn.loss_func is not None
    assert crit_learn.loss_func is not None
    gen_loss_func, crit_loss_func = gan_loss_from_func(
        gen_learn.loss_func, crit_learn.loss_func, weights_gen
    )
    return gan_learner(
        gen_learn.dls,
        gen_learn.model,
        crit_learn.model,
        gen_loss_func,
        crit_loss_func,
        switcher=switcher,
        gen_first=gen_first,
        switch_eval=switch_eval,
        show_img=show_img,
        clip=clip,
        cbs=cbs,
        metrics=metrics,
        opt_func=opt_func,
        lr=lr,
        splitter=splitter,
        path=path,
        device=device,
        seed=seed,
        train_bn=train_bn,
    )


class _GANLearnerMaker:
    """Calls ``gan_learner``; has the others beside it."""

    __call__ = staticmethod(gan_learner)
    wgan = staticmethod(wgan_learner)
    from_learners = staticmethod(gan_from_learners)


#: fastai's way to write it: ``GANLearner(...)``, ``GANLearner.wgan(...)``.
GANLearner = _GANLearnerMaker()
