"""Groups of commands that are imported when they are called, and what errors become.

A user's mistake is one message and exit status 2. A bug, in a plugin, in the user's own
code or in ours, keeps its traceback and exits with 1. So does, in a message without a
traceback, what the loop itself cannot work with, a batch of the wrong shape for one,
and a check that a run does not pass.
Ctrl-C exits with 130.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple

import click

from callboard.cli.text import wrapped
from callboard.errors import (
    BrokenPluginError,
    CallboardError,
    CallboardWarning,
    CheckError,
    suggestion,
)

OF_CLICK = (click.ClickException, click.exceptions.Exit, click.Abort)
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells expect it


class Home(NamedTuple):
    """Where a command is (its module has it as ``command``), and its help in short."""

    module: str
    summary: str


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def __init__(self, *, homes: Mapping[str, Home], **settings: Any) -> None:
        super().__init__(**settings)
        self.homes = homes

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted(self.homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None where there is none of that name."""
        home = self.homes.get(cmd_name)
        if home is None:
            return None
        command: click.Command = import_module(home.module).command
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the part of ``--help`` that lists the commands; none is imported."""
        with formatter.section("Commands"):
            rows = [(name, self.homes[name].summary) for name in sorted(self.homes)]
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was asked for; a wrong name gets a suggestion."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not name.startswith("-"):
            hint = self.hint(name) or suggestion(name, self.list_commands(ctx))
            ctx.fail(f'There is no command "{ctx.command_path} {name}".{hint}')
        if command is None:
            return super().resolve_command(ctx, args)
        return name, command, args[1:]

    def hint(self, name: str) -> str:
        """Where to get a command that is not there, if that is known."""
        return ""


class MainGroup(LazyGroup):
    """``callboard`` itself: its own commands, and those of installed plugins."""

    def hint(self, name: str) -> str:
        """The distribution of a plugin that is not installed."""
        from callboard import discovery

        return discovery.install_hint(name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, those of plugins included."""
        return sorted({*self.homes, *self._sources()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command, or load one that a plugin offers."""
        if cmd_name in self.homes or cmd_name not in self._sources():
            return super().get_command(ctx, cmd_name)
        from callboard import discovery

        installed = discovery.find(cmd_name, "command")
        command = installed.load()
        if not isinstance(command, click.Command):
            source = f"{installed.distribution} {installed.version}"
            raise BrokenPluginError(
                f'The command "{cmd_name}" of {source} ({installed.entry_point}) is '
                f"broken: it is no click command but {type(command).__name__}. Repair "
                f"or uninstall {installed.distribution}."
            )
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the lists of commands; those of plugins by name and source alone."""
        super().format_commands(ctx, formatter)
        if sources := self._sources():
            with formatter.section("Commands of installed plugins"):
                formatter.write_dl([(name, sources[name]) for name in sorted(sources)])

    def _sources(self) -> dict[str, str]:
        """The commands of plugins, and where each comes from."""
        from callboard import discovery

        return {
            plugin.name: f"From {plugin.distribution} {plugin.version}."
            for plugin in discovery.installed()
            if plugin.kind == "command" and plugin.name not in self.homes
        }

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors become messages and exit statuses here."""
        with _readable_warnings():
            try:
                return super().invoke(ctx)
            except CallboardError as error:
                _leave_telling_to_another(ctx)
                if ctx.params.get("traceback"):
                    raise
                is_check = isinstance(error, CheckError)
                raise (FailedCheck if is_check else Mistake)(error) from error
            except KeyboardInterrupt as interrupt:
                what = str(interrupt) or "interrupted."
                click.echo(f"\ncallboard: {what}", err=True)
                # One that says its own exit code was raised for another signal.
                code = getattr(interrupt, "code", EXIT_INTERRUPTED)
                ctx.exit(code)
            except Exception as error:
                _leave_telling_to_another(ctx)
                if ctx.params.get("traceback") or isinstance(error, OF_CLICK):
                    raise
                if _is_bare(error) or _is_of_output(error):
                    raise Breakdown(error) from error
                raise Uncaught(error) from error


def _is_one_of_many() -> bool:
    """Whether this is not the first of the processes that ``torchrun`` has started."""
    is_many = os.environ.get("WORLD_SIZE", "1") != "1"
    return is_many and os.environ.get("RANK", "0") != "0"


def _leave_telling_to_another(ctx: click.Context) -> None:
    """End quietly where another of several processes has failed before this one."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from callboard.processes import is_first_to_fail

        if not is_first_to_fail():
            ctx.exit(1)


def _is_bare(error: Exception) -> bool:
    # Where it is not imported yet no loop has run.
    faults = sys.modules.get("callboard.faults")
    return faults is not None and faults.is_bare(error)


def _is_of_output(error: Exception) -> bool:
    """Whether what is printed cannot be written, as to a full disk."""
    is_unnamed = isinstance(error, OSError) and error.filename is None
    return is_unnamed and getattr(error, "errno", None) in (errno.ENOSPC, errno.EIO)


class Mistake(click.ClickException):
    """An error that the user can mend: its message and its notes, no traceback."""

    exit_code = 2

    def __init__(self, error: Exception) -> None:
        notes = getattr(error, "__notes__", [])
        super().__init__("\n".join([self.in_short(error), *notes]))

    def in_short(self, error: Exception) -> str:
        """The error in words."""
        return str(error)

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message to stderr."""
        stream = file or sys.stderr
        click.echo(wrapped(f"Error: {self.message}", stream), file=stream)


class FailedCheck(Mistake):
    """What was asked for is done, and did not pass a check."""

    exit_code = 1


class Breakdown(Mistake):
    """The loop could not go on, and no line of the user's code shows why."""

    exit_code = 1

    def in_short(self, error: Exception) -> str:
        """The error with its type, since its message is not ours."""
        return f"{type(error).__name__}: {error}"


class Uncaught(click.ClickException):
    """An error in code of the user's or a plugin's: its traceback, from there on."""

    exit_code = 1

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the traceback to stderr, without how the command line came there."""
        way = self.error.__traceback__
        while way is not None and _is_of_command_line(way.tb_frame.f_code.co_filename):
            way = way.tb_next
        if way is not None:
            self.error.__traceback__ = way
        lines = traceback.format_exception(self.error)
        click.echo("".join(lines).rstrip(), file=file or sys.stderr)


def _is_of_command_line(file: str) -> bool:
    own = (Path(__file__).parent, Path(click.__file__).parent)
    return file.startswith("<frozen") or Path(file).parent in own


@contextmanager
def _readable_warnings() -> Iterator[None]:
    """Show Callboard's warnings as sentences, without the line of code."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_ours(
            message: Warning | str, category: type[Warning], *where: Any, **more: Any
        ) -> None:
            if issubclass(category, CallboardWarning):
                if _is_one_of_many():
                    return  # the first of them says the same
                click.echo(wrapped(f"Warning: {message}", sys.stderr), err=True)
            else:
                show(message, category, *where, **more)

        warnings.showwarning = show_ours
        yield
