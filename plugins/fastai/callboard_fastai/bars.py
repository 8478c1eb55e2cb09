"""What fastai callbacks expect of ``learn.progress``: bars that take what is said.

Callboard's ``progress`` draws bars by itself and has no place for pictures and texts
of others. Text goes to the terminal; pictures are left out.
"""

from __future__ import annotations

from typing import Any


class Bar:
    """A bar of fastprogress, as far as callbacks talk to it.

    Attributes:
        comment: The text beside the bar.
        names: What a graph's lines are called.
    """

    def __init__(self) -> None:
        self.comment = ""
        self.names: list[str] = ["train", "valid"]

    def write(self, line: Any, table: bool = False) -> None:
        """Print a line, or the cells of one."""
        is_row = isinstance(line, list | tuple)
        print("  ".join(map(str, line)) if is_row else line)

    def update(self, val: Any) -> None:
        """Callboard's bar moves by itself."""

    def update_graph(self, graphs: Any, *bounds: Any, **options: Any) -> None:
        """There is no place for a graph here; ``callboard-show-graph`` draws one."""

    def show_imgs(self, imgs: Any, *texts: Any, **options: Any) -> None:
        """There is no place for pictures here."""

    def on_iter_end(self) -> None:
        """Callboard's bar ends by itself."""


class ProgressView:
    """The plugin that shows progress, with fastai's bars besides.

    Args:
        plugin: The plugin; what the view lacks is read from it.
    """

    def __init__(self, plugin: Any) -> None:
        self.plugin = plugin
        self.mbar, self.pbar = Bar(), Bar()

    def __getattr__(self, name: str) -> Any:
        if name == "plugin":
            raise AttributeError(name)
        return getattr(self.plugin, name)
