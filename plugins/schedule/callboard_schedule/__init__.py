"""Schedule any hyper-parameter over a run: one-cycle, flat-cosine, warm restarts.

Listens to  before_fit, before_train, before_batch, teardown
Changes     hyper-parameters of the optimizer, before every training batch
Source      Smith 2018, arXiv:1803.09820 (one-cycle); Loshchilov & Hutter 2017,
            arXiv:1608.03983 (SGDR); the functions and their names are fastai's

A schedule is a function of how much of the run is done, from 0 to 1:

    ParamScheduler({"lr": combined_cos(0.25, 1e-4, 1e-2, 1e-6)})
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callboard_schedule.annealing import (
    CombinedSchedule,
    Piece,
    SchedCos,
    SchedExp,
    SchedLin,
    SchedNo,
    SchedPoly,
    combine_scheds,
    combined_cos,
)
from callboard_schedule.methods import fit_flat_cos, fit_one_cycle, fit_sgdr
from callboard_schedule.plotting import plot_schedule
from callboard_schedule.scheduler import ParamScheduler

if TYPE_CHECKING:
    from callboard.testing import Specimen

__all__ = [
    "CombinedSchedule",
    "ParamScheduler",
    "Piece",
    "SchedCos",
    "SchedExp",
    "SchedLin",
    "SchedNo",
    "SchedPoly",
    "combine_scheds",
    "combined_cos",
    "fit_flat_cos",
    "fit_one_cycle",
    "fit_sgdr",
    "plot_schedule",
]


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the schedules out."""
    from callboard.testing import Specimen

    return {
        "schedule": Specimen(make=lambda: ParamScheduler({"lr": SchedCos(0.01, 0.0)})),
        "fit_sgdr": Specimen(run=lambda learner: fit_sgdr(learner, 1, 2)),
    }
