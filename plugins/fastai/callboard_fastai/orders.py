"""Where plugins of Callboard stand among callbacks that go by fastai's ``order``.

The plugins that are the counterparts of fastai's callbacks declare constraints and have
no number. A callback written for fastai has a number, and expects to run before or
after each of them by it.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Plugin -> the order of its counterpart in fastai 2.8.
ORDERS: Mapping[str, float] = {
    "activation-stats": -20,
    "terminate-on-nan": -9,
    "channels-last": -1,
    "gradient-accumulation": 6,
    "mixed-precision": 10,
    "gradient-clip": 11,
    "recorder": 50,
    "fastai-recorder": 50,
    "tensorboard": 51,
    "wandb": 51,
    "comet": 51,
    "azure-ml": 51,
    "csv-logger": 60,
    "progress": 60,
    "schedule": 60,
    "lr-finder": 60,
    "tracker": 60,
    "save-model": 61,
    "reduce-lr-on-plateau": 62,
    "early-stopping": 63,
    "show-graph": 65,
}


def neighbours(order: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The plugins that a callback of this order runs after, and those it runs before.

    One that has the same order is neither: the sequence in which both were given
    decides.
    """
    after = tuple(name for name, number in ORDERS.items() if number < order)
    before = tuple(name for name, number in ORDERS.items() if number > order)
    return after, before
