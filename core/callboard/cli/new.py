"""``callboard new``: write a distribution with a plugin of one's own."""

from __future__ import annotations

import datetime as dt
import shlex
import subprocess
import sys
from pathlib import Path

import click

from callboard.authoring import KINDS, LICENSES, PREFIX, Project
from callboard.cli.text import short_path, wrapped
from callboard.errors import OptionError


@click.command("new")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(list(KINDS)),
    default="callback",
    show_default=True,
    help="What it is: "
    + "; ".join(f"{kind}, {what}" for kind, what in KINDS.items())
    + ".",
)
@click.option(
    "--license",
    "license_",
    type=click.Choice(LICENSES),
    default="MIT",
    show_default=True,
    help="Under which licence others may use it.",
)
@click.option("--author", help="Who it is by. Default: the name that git knows.")
@click.option(
    "--path",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("."),
    help="Where the folder callboard-NAME is made. Default: here.",
)
def command(
    name: str, kind: str, license_: str, author: str | None, path: Path
) -> None:
    """Write a distribution with a plugin NAME: code, README, tests, licence and CI.

    It works as it is written; change it into what you have in mind. NAME is in small
    letters, words parted by -.

    \b
    callboard new gradient-noise
    callboard new plot-weights --kind method --license Apache-2.0
    """
    author = author or _name_in_git() or f"The authors of {PREFIX}{name}"
    if not author.isprintable() or any(sign in author for sign in '"\\'):
        message = f"--author must be a plain name, without quotes, got {author!r}."
        raise OptionError(message)
    year = dt.date.today().year
    project = Project(name.removeprefix(PREFIX), kind, license_, author, year)
    _refuse_taken(project)
    folder = path / f"{PREFIX}{project.name}"
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OptionError(
                f"{short_path(folder)} is there already, and nothing was written. Take "
                "it away, or give another --path."
            )
        written = _write(project, folder)
    except OSError as error:
        message = f"{short_path(folder)} cannot be written: {error}."
        raise OptionError(message) from error
    click.echo(f"Wrote {short_path(folder)}:")
    for file in written:
        click.echo(f"  {file}")
    click.echo("\nNext:\n")
    for line in next_steps(project, folder):
        click.echo(f"  {line}")
    closing = (
        f"\nThen change {project.module}.py into what you have in mind, and the tests "
        "and README.md with it."
    )
    click.echo(wrapped(closing, sys.stdout))


def next_steps(project: Project, folder: Path) -> list[str]:
    """The commands that lead from a new folder to a plugin that takes part."""
    use = {
        "callback": f"callboard fit train.py --epochs 3 --with {project.name}",
        "plugin": "callboard fit train.py --epochs 3",
        "module": f"callboard fit train.py --epochs 3 --with {project.name}",
        "method": f"callboard plugins show {project.entry}",
        "command": f"callboard {project.name} train.py",
    }
    return [
        f"cd {shlex.quote(folder.as_posix())}",
        'python -m pip install -e ".[test]"',
        "python -m pytest",
        f"callboard plugins check {project.entry}",
        use[project.kind],
        "python -m pip wheel --no-deps --wheel-dir dist .",
    ]


def _write(project: Project, folder: Path) -> list[str]:
    contents = project.files()
    for name, text in contents.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8", newline="\n")
    return list(contents)


def _refuse_taken(project: Project) -> None:
    from callboard import discovery
    from callboard.callback import LEARNER_ATTRIBUTES
    from callboard.cli import HOMES

    for plugin in discovery.installed():
        if plugin.name in (project.name, project.entry):
            raise OptionError(
                f"{plugin.name} is the name of a {plugin.kind} of "
                f"{plugin.distribution} {plugin.version}, which is installed. Give "
                "yours another name."
            )
    is_attribute = project.name.replace("-", "_") in LEARNER_ATTRIBUTES
    if is_attribute or (project.kind == "command" and project.name in HOMES):
        raise OptionError(
            f"{project.name} is a name that Callboard itself uses. Give yours another."
        )


def _name_in_git() -> str:
    try:
        ran = subprocess.run(
            ["git", "config", "user.name"],
            capture_output=True,
            text=True,
            check=False,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    name = ran.stdout.strip()
    return "".join(c for c in name if c.isprintable() and c not in '"\\')
