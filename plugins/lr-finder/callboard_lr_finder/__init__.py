"""Find a learning rate by training briefly at rising ones: ``learn.lr_find()``.

Listens to  do_fit (around it), before_fit, before_batch, after_batch, do_validate,
            after_fit
Changes     the learning rate, before every training batch; stops the fit; afterwards
            all is as it was
Source      Smith 2017, arXiv:1506.01186; names, defaults and the four suggestions are
            fastai's
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callboard_lr_finder.curve import LRCurve, plot_lr_find
from callboard_lr_finder.finder import LRFinder, lr_find
from callboard_lr_finder.suggestions import minimum, slide, steep, valley
from callboard_lr_finder.untouched import untouched_plugins, untouched_training

if TYPE_CHECKING:
    from callboard.testing import Specimen

__all__ = [
    "LRCurve",
    "LRFinder",
    "lr_find",
    "minimum",
    "plot_lr_find",
    "slide",
    "steep",
    "untouched_plugins",
    "untouched_training",
    "valley",
]


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the search out."""
    from callboard.testing import Specimen

    return {
        "lr-finder": Specimen(
            exempt={
                "resume": "it puts weights and optimizer back, so nothing is to go on "
                "from inside a search"
            }
        ),
        "lr_find": Specimen(
            run=lambda learner: lr_find(learner, num_it=10, show_plot=False)
        ),
    }
