"""``callboard completion``, and what Tab completes: the names of plugins."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_CALLBOARD_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the script that lets Tab complete commands, options and plugins.

    \b
    bash:  callboard completion bash > ~/.callboard-complete.bash
           echo 'source ~/.callboard-complete.bash' >> ~/.bashrc
    zsh:   callboard completion zsh > ~/.callboard-complete.zsh
           echo 'source ~/.callboard-complete.zsh' >> ~/.zshrc
    fish:  callboard completion fish > ~/.config/fish/completions/callboard.fish
    """
    from callboard.cli import main

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "callboard", VARIABLE).source())


def plugin_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of installed plugins that begin so, and the distributions they are of."""
    return _of_kinds(incomplete, ("callback", "plugin"))


def any_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The same of everything that is installed: methods and commands too."""
    return _of_kinds(incomplete, ("callback", "plugin", "method", "command"))


def event_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of events that begin so, and what each is."""
    from callboard.events import EVENTS

    return [
        CompletionItem(event.name, help=event.kind)
        for event in EVENTS.values()
        if event.name.startswith(incomplete)
    ]


def schedule_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of schedules: the methods ``fit_...``, as ``one-cycle``."""
    found = _of_kinds("fit_" + incomplete.replace("-", "_"), ("method",))
    return [
        CompletionItem(
            item.value.removeprefix("fit_").replace("_", "-"), help=item.help
        )
        for item in found
    ]


def _of_kinds(incomplete: str, kinds: tuple[str, ...]) -> list[CompletionItem]:
    from callboard import discovery

    return [
        CompletionItem(plugin.name, help=f"{plugin.distribution} {plugin.version}")
        for plugin in discovery.installed()
        if plugin.kind in kinds and plugin.name.startswith(incomplete)
    ]
