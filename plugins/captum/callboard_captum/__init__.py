"""Show which pixels of an image a prediction rests on: ``learn.interpret()``.

Listens to  nothing; it works in a nested evaluation of the stage ``predict``
Changes     nothing
Source      Captum (Kokhlikyan et al. 2020, arXiv:2009.07896) does the work; integrated
            gradients: Sundararajan et al. 2017, arXiv:1703.01365; noise tunnel:
            Smilkov et al. 2017, arXiv:1706.03825; occlusion: Zeiler & Fergus 2014,
            arXiv:1311.2901. Names and options are fastai's

Captum and matplotlib are imported when they are used.
"""

from __future__ import annotations

from callboard_captum.attributing import Attribution
from callboard_captum.interpretation import CaptumInterpretation, interpret
from callboard_captum.pictures import displayable

__all__ = [
    "Attribution",
    "CaptumInterpretation",
    "displayable",
    "interpret",
]
