"""Draw the losses while they fall: live in a notebook, as a PNG file in a script.

Listens to  before_fit, after_epoch, teardown
Changes     nothing
Source      fastai's ShowGraphCallback, for what is shown

The losses are the recorder's. The figure is this plugin's own: pyplot does not know it,
so that no window opens and no notebook shows it twice.
"""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from callboard import Callback
from callboard.data import num_batches
from callboard.errors import OptionError, suggestion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from callboard.testing import Specimen

Mode = Literal["auto", "notebook", "file"]
MODES = ("auto", "notebook", "file")
DOTS_PER_INCH = 100


class ShowGraphCallback(Callback):
    """Draws training and validation loss anew after every epoch.

    Args:
        fname: The picture in a script, in ``learner.path`` unless it is absolute.
            Folders are made.
        mode: ``"notebook"`` or ``"file"``; ``"auto"`` looks where it runs.
        figsize: Width and height in inches.

    Raises:
        OptionError: An option has a value that cannot be used.
    """

    name = "show-graph"
    role = "observe"
    run_valid = False
    requires = "recorder"
    run_after = "recorder"

    def __init__(
        self,
        fname: str | Path = "graph.png",
        mode: Mode = "auto",
        figsize: tuple[float, float] = (6.0, 4.0),
    ) -> None:
        if mode not in MODES:
            known = ", ".join(f'"{known}"' for known in MODES)
            message = f"show-graph: mode must be one of {known}, got {mode!r}."
            raise OptionError(message + suggestion(str(mode), MODES))
        if Path(fname).suffix.lower() != ".png":
            raise OptionError(
                f"show-graph: fname must be the name of a PNG file, got "
                f"{str(fname)!r}. Use graph.png."
            )
        self.fname, self.mode, self.figsize = Path(fname), mode, figsize
        self._figure: Figure | None = None
        self._handle: Any = None
        self._num_drawn = 0

    @property
    def file(self) -> Path:
        """Where the picture is in a script."""
        return Path(self.learn.path, self.fname)

    def before_fit(self) -> None:
        """Begin a new picture."""
        from matplotlib.figure import Figure

        self._figure = Figure(
            figsize=self.figsize, dpi=DOTS_PER_INCH, layout="constrained"
        )
        self._handle, self._num_drawn = None, 0

    def after_epoch(self) -> None:
        """Draw what was recorded so far."""
        self._draw()

    def teardown(self) -> None:
        """Draw the epoch that was not finished too, and let go of the figure."""
        try:
            if self._figure is not None:
                self._draw()
        finally:
            self._figure = self._handle = None

    def _draw(self) -> None:
        steps, figure = self.learn.recorder.steps, self._figure
        if figure is None or not steps or steps[-1] == self._num_drawn:
            return
        self._num_drawn = steps[-1]
        figure.clear()
        ax = figure.add_subplot()
        self.learn.recorder.plot_loss(skip_start=0, ax=ax)
        per_epoch = num_batches(self.learn.dls.train)
        if per_epoch:
            # The whole run from the start on, so that lines grow and nothing jumps.
            last = max(per_epoch * self.learn.n_epoch, steps[-1])
            ax.set_xlim(min(steps[0], last - 1) - 0.02 * last, 1.02 * last)
        self._show(as_png(figure))

    def _show(self, picture: bytes) -> None:
        is_file = self.mode == "file" or not is_in_notebook()
        if self.mode != "notebook" and is_file:
            replace_file(self.file, picture)
            return
        # It is there where a notebook is, and nowhere else.
        ipython: Any = import_module("IPython.display")
        if self._handle is None:
            self._handle = ipython.display(ipython.Image(picture), display_id=True)
        else:
            self._handle.update(ipython.Image(picture))


def as_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def is_in_notebook() -> bool:
    """Whether a Jupyter kernel runs this; IPython is not imported to find out."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if get_ipython is not None else None
    return "ZMQInteractiveShell" in [kind.__name__ for kind in type(shell).__mro__]


def replace_file(file: Path, content: bytes) -> None:
    """Put a new file in the place of an old one at once, folders included."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        new.write_bytes(content)
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try the pictures out."""
    from callboard.testing import Specimen

    return {"show-graph": Specimen(is_slow=True)}  # it draws them all
