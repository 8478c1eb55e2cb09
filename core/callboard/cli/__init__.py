"""The command line, one file a command; ``callboard --help`` lists them.

Nothing here imports a command's file before that command is called, so that ``--help``
and ``plugins list`` never wait for torch.
"""

from __future__ import annotations

import click

from callboard import __version__
from callboard.cli.groups import Home, MainGroup

HOMES = {
    "completion": Home("callboard.cli.completion", "Let Tab complete what is typed."),
    "events": Home("callboard.cli.events", "What the loop calls, and when."),
    "fit": Home("callboard.cli.fit", "Train the Learner that a file or module makes."),
    "new": Home("callboard.cli.new", "Write a distribution with a plugin of your own."),
    "order": Home("callboard.cli.order", "Who runs when in the loop, and why."),
    "plugins": Home("callboard.cli.plugins", "What is installed, and what it does."),
    "stubs": Home("callboard.cli.stubs", "Tell type checkers what is installed."),
}


@click.group(
    cls=MainGroup, homes=HOMES, epilog="Every command explains itself: --help."
)
@click.version_option(__version__, prog_name="callboard")
@click.option(
    "--traceback", is_flag=True, help="Show where in the code an error was raised."
)
def main(traceback: bool) -> None:
    """Train PyTorch models with plugins, and see who is called when.

    \b
    callboard plugins list
    callboard order train.py
    callboard fit train.py --epochs 5 --with mixup:alpha=0.3
    """
