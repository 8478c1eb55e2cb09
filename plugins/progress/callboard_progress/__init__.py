"""Show bars with loss and time left, and a table that grows by one row an epoch.

In a terminal the rows of the table are printed above two live bars, in a notebook both
are HTML, and everywhere else (a file, a pipe, a dumb terminal) there are plain lines
and no bars. Bars are drawn by the clock, in the thread that trains; only then is a loss
read from the device.

Listens to  before_fit, before_epoch, before_train, after_batch, after_train,
            before_validate, after_epoch, teardown
Changes     nothing
Source      fastai's ProgressCallback (fastai/callback/progress.py), for what is shown
"""

from __future__ import annotations

from callboard_progress.callback import ProgressCallback

__all__ = [
    "ProgressCallback",
]
