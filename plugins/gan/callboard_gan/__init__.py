"""Train a generator and a critic against each other (GAN).

Listens to  do_fit, do_validate, do_step (around them), before_train, before_batch,
            after_step, after_batch, after_train, after_epoch
Changes     xb and yb in training batches of the critic; which parameters take
            gradients; modes of the two networks; weights of the critic with ``clip``;
            the learning rate within a step, with ``GANDiscriminativeLR``
Source      Goodfellow et al. 2014, arXiv:1406.2661; Arjovsky et al. 2017,
            arXiv:1701.07875; names are fastai's
"""

from __future__ import annotations

from callboard_gan.learners import (
    GANLearner,
    gan_from_learners,
    gan_learner,
    gan_splitter,
    wgan_learner,
)
from callboard_gan.losses import (
    AdaptiveLoss,
    GANLoss,
    accuracy_thresh_expand,
    gan_loss_from_func,
    wgan_critic_loss,
    wgan_generator_loss,
)
from callboard_gan.networks import (
    AddChannels,
    GANModule,
    SelfAttention,
    basic_critic,
    basic_generator,
    gan_critic,
)
from callboard_gan.specimens import callboard_specimens
from callboard_gan.switchers import (
    AdaptiveGANSwitcher,
    FixedGANSwitcher,
    GANDiscriminativeLR,
)
from callboard_gan.trainer import GANTrainer

__all__ = [
    "AdaptiveGANSwitcher",
    "AdaptiveLoss",
    "AddChannels",
    "FixedGANSwitcher",
    "GANDiscriminativeLR",
    "GANLearner",
    "GANLoss",
    "GANModule",
    "GANTrainer",
    "SelfAttention",
    "accuracy_thresh_expand",
    "basic_critic",
    "basic_generator",
    "callboard_specimens",
    "gan_critic",
    "gan_from_learners",
    "gan_learner",
    "gan_loss_from_func",
    "gan_splitter",
    "wgan_critic_loss",
    "wgan_generator_loss",
    "wgan_learner",
]
