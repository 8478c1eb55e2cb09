"""``callboard plugins check``: validate every plugin, or try one out."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import click

from callboard import discovery
from callboard.activation import DECLARATIONS, automatic, automatic_member, joined
from callboard.callback import LEARNER_ATTRIBUTES, Callback
from callboard.cli.completion import any_names
from callboard.cli.specimens import board_of, gathered, specimen, usable
from callboard.cli.text import columns, wrapped
from callboard.configuration import Configuration, load_configuration
from callboard.discovery import InstalledPlugin
from callboard.errors import BrokenPluginError, CallboardError, suggestion
from callboard.hookimpls import hookimpls_of
from callboard.metadata import missing_requirements
from callboard.options import options_of
from callboard.status import status_of
from callboard.testing.limiting import TIMEOUT, TimeoutReachedError, limited
from callboard.verdicts import remember, remember_failure

if TYPE_CHECKING:
    from callboard.activation import ActivePlugin
    from callboard.testing.conformance import Report as Trial

HANG = " " * 7


@dataclass
class Report:
    """What a check of one plugin has shown.

    Attributes:
        plugin: The plugin.
        faults: What is wrong.
        doubts: What its author may have meant otherwise.
        summary: What it is, where nothing is wrong.
        breaks_a_rule: Whether it was tried out and broke one.
        is_stuck: Whether importing or making it has taken too long.
        trial: What trying it out has shown, where that was done.
    """

    plugin: InstalledPlugin
    faults: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    summary: str = ""
    breaks_a_rule: bool = False
    is_stuck: bool = False
    trial: Trial | None = None

    @property
    def is_good(self) -> bool:
        return not self.faults and not self.breaks_a_rule

    def as_plain(self) -> dict[str, Any]:
        """What ``--json`` shows of it."""
        plugin, trial = self.plugin, self.trial
        plain: dict[str, Any] = {
            "name": plugin.name,
            "kind": plugin.kind,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "is_good": self.is_good,
            "summary": self.summary,
            "faults": self.faults,
            "doubts": self.doubts,
            "trial": None,
        }
        if trial is not None:
            names = ("kept", "exempt", "untried", "notes")
            plain["trial"] = {name: getattr(trial, name) for name in names} | {
                "findings": [asdict(finding) for finding in trial.findings],
                "cost": trial.cost and asdict(trial.cost),
            }
        return plain

    @property
    def cells(self) -> tuple[str, ...]:
        """What a line of the report shows."""
        state = "ok" if self.is_good else "wrong"
        source = f"{self.plugin.distribution} {self.plugin.version}"
        what = "; ".join(self.faults) or self.summary
        return state, self.plugin.name, source, what


@click.command("check")
@click.argument("name", required=False, shell_complete=any_names)
@click.option(
    "--quick", is_flag=True, help="Import and validate NAME only; train nothing."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="What one rule may take, and the import of one plugin.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def command(name: str | None, quick: bool, timeout: float, as_json: bool) -> None:
    """Import every plugin and validate it, or try out the one named NAME.

    Checked are: the import, every hookimpl against its event, the role of what joins by
    being installed, the plugin's own name, and whether what would be active together
    can be: rings and conflicts.

    The one named NAME is tried out besides, in tiny Learners, by the rules that every
    plugin keeps: it respects its role, runs are repeatable, its state comes back, a run
    goes on from any checkpoint, cancels and errors leave nothing behind. The exit
    status is 1 if anything is wrong.

    \b
    callboard plugins check
    callboard plugins check mixup
    callboard plugins check mixup --json
    """
    configuration = load_configuration()
    chosen = discovery.installed() if name is None else _named(name)
    reports = [report_on(plugin, configuration, timeout) for plugin in chosen]
    wrong: list[str] = []
    if not any(report.is_stuck for report in reports):  # they would be waited for again
        wrong += _faults_together(configuration, reports if name else ())
    doubts = [f"{r.plugin.name}: {doubt}" for r in reports for doubt in r.doubts]
    if name is None:
        wrong += discovery.problems()
        wrong += _enabled_and_absent(configuration)
        doubts += _doubts_about(configuration)

    for report in reports:
        if name is not None and not quick and not report.faults:
            trial = report.trial = _tried(report.plugin, timeout)
            for finding in trial.findings:
                # Options that must be given are no fault; only nobody can try it then.
                is_fault = finding.rule != "made" or not _needs_options(report.plugin)
                (wrong if is_fault else doubts).append(f"{name}: {finding}")
                report.breaks_a_rule |= is_fault
            doubts += [f"{name}: {note}" for note in trial.notes]

    doubts = list(dict.fromkeys(doubts))
    num_wrong = sum(bool(report.faults) for report in reports) + len(wrong)
    if as_json:
        import json

        answer = {
            "plugins": [report.as_plain() for report in reports],
            "wrong": wrong,
            "doubts": doubts,
            "num_wrong": num_wrong,
        }
        click.echo(json.dumps(answer, indent=2))
    else:
        _show(reports, wrong, doubts)
        click.echo(f"{len(reports)} checked, {num_wrong or 'nothing'} wrong")
    if num_wrong:
        sys.exit(1)


def _show(
    reports: Sequence[Report], wrong: Sequence[str], doubts: Sequence[str]
) -> None:
    click.echo(columns([report.cells for report in reports], sys.stdout))
    for report in reports:
        for line in _in_words(report.trial) if report.trial else ():
            click.echo(wrapped(HANG + line, sys.stdout))
    for fault in wrong:
        click.echo(wrapped(f"wrong  {fault}", sys.stdout, HANG))
    for doubt in doubts:
        click.echo(wrapped(f"doubt  {doubt}", sys.stdout, HANG))


def _needs_options(plugin: InstalledPlugin) -> bool:
    """Whether nobody can make one without saying more."""
    loaded = plugin.load()
    is_class = isinstance(loaded, type)
    return is_class and any(option.is_required for option in options_of(loaded))


def _tried(plugin: InstalledPlugin, timeout: float) -> Trial:
    # Here, since it imports torch, and nothing else in this file does.
    from callboard.testing.conformance import check_plugin

    return check_plugin(plugin, timeout=timeout)


def _in_words(trial: Trial) -> Iterator[str]:
    """What came of trying a plugin out, but for what is wrong."""
    num_rules = len(trial.kept)
    yield f"keeps {num_rules} rule{'s' * (num_rules != 1)}: {', '.join(trial.kept)}"
    if trial.untried:
        yield f"could not be tried by the others: {', '.join(trial.untried)}"
    for rule, reason in trial.exempt.items():
        yield f"does not have to keep the rule {rule}: {reason}"
    if trial.cost is not None:
        yield f"takes {trial.cost}"


def _named(name: str) -> Sequence[InstalledPlugin]:
    found = [plugin for plugin in discovery.installed() if plugin.name == name]
    return found or [discovery.find(name)]  # raises, and says what is near


def report_on(
    plugin: InstalledPlugin, configuration: Configuration, timeout: float
) -> Report:
    report = Report(plugin)
    try:
        with limited(timeout):
            _validate_into(report, configuration)
    except TimeoutReachedError as error:
        report.is_stuck = True
        report.faults.append(f"trying to use it takes too long: {error}")
    return report


def _validate_into(report: Report, configuration: Configuration) -> None:
    plugin = report.plugin
    status, reason = status_of(plugin, configuration)
    if status == "broken":
        report.faults.append(reason)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            report.summary = _validate(plugin, configuration)
        except CallboardError as error:
            report.faults.append(getattr(error, "reason", None) or str(error))
            report.is_stuck = isinstance(error.__cause__, TimeoutReachedError)
            remember_failure(plugin, error)
        else:
            remember(plugin, None)
            report.faults += _wrong_name(plugin)
            report.doubts += _deafness(plugin)
            report.doubts += _doubtful_targets(plugin)
    report.doubts += [str(warning.message) for warning in caught]
    report.doubts += _missing_requirements(plugin)


def _validate(plugin: InstalledPlugin, configuration: Configuration) -> str:
    """Load a plugin and say in short what it is.

    Raises:
        CallboardError: Something is wrong with it.
    """
    if plugin.kind == "method":
        return _validate_method(plugin)
    if plugin.kind == "command":
        return _validate_command(plugin)
    if plugin.kind == "adapter":
        return _validate_adapter(plugin)
    member = specimen(plugin)
    if plugin.kind == "plugin":
        automatic_member(plugin, configuration)
    num_hookimpls = len(hookimpls_of(member.plugin, plugin.name))
    return f"{member.role}, {num_hookimpls} hookimpl{'s' * (num_hookimpls != 1)}"


def _validate_adapter(plugin: InstalledPlugin) -> str:
    loaded = plugin.load()
    if not callable(loaded):
        what = f"{plugin.entry_point} is no function that takes an object to adapt"
        raise BrokenPluginError(what)
    return f"adapts {plugin.name}"


def _validate_method(plugin: InstalledPlugin) -> str:
    loaded = plugin.load()
    if not callable(loaded):
        what = f"{plugin.entry_point} is no function but {type(loaded).__name__}"
        raise BrokenPluginError(what)
    if not inspect.signature(loaded).parameters:
        what = f"{plugin.entry_point} takes no argument; the first is the Learner"
        raise BrokenPluginError(what)
    if not plugin.name.isidentifier():
        what = f"learner.{plugin.name}() is not Python: a method needs another name"
        raise BrokenPluginError(what)
    if plugin.name in LEARNER_ATTRIBUTES:
        raise BrokenPluginError(f"the Learner's own {plugin.name!r} hides it")
    return "a method"


def _validate_command(plugin: InstalledPlugin) -> str:
    from callboard.cli import HOMES

    loaded = plugin.load()
    if not isinstance(loaded, click.Command):
        what = f"{plugin.entry_point} is no click command but {type(loaded).__name__}"
        raise BrokenPluginError(what)
    if plugin.name in HOMES:
        raise BrokenPluginError(f"callboard's own command {plugin.name!r} hides it")
    return "a command"


def _wrong_name(plugin: InstalledPlugin) -> Iterator[str]:
    """Says so where a plugin calls itself otherwise than its entry point does."""
    if plugin.kind not in ("plugin", "callback"):
        return
    loaded: Any = plugin.load()
    is_callback = isinstance(loaded, type) and issubclass(loaded, Callback)
    own = loaded.name if is_callback else vars(loaded).get("name")
    if isinstance(own, str) and own != plugin.name:
        yield (
            f'{plugin.entry_point} calls itself "{own}" and its entry point is named '
            f'"{plugin.name}"; write name = "{plugin.name}"'
        )


def _deafness(plugin: InstalledPlugin) -> Iterator[str]:
    """Says so where nothing would ever call a plugin."""
    if plugin.kind not in ("plugin", "callback"):
        return
    if not hookimpls_of(specimen(plugin).plugin, plugin.name):
        yield (
            "it listens to no event. A method named as an event is called at that "
            "event; `callboard events` lists them."
        )


def _missing_requirements(plugin: InstalledPlugin) -> Iterator[str]:
    """What it needs and will miss in use, since it imports that late."""
    for name in missing_requirements(plugin.distribution):
        yield (
            f"{plugin.distribution} needs {name}, which is not installed: "
            f"python -m pip install {name}"
        )


def _doubtful_targets(plugin: InstalledPlugin) -> Iterator[str]:
    """Declared names that nobody has, but somebody nearly."""
    if plugin.kind not in ("plugin", "callback"):
        return
    known = [p.name for p in discovery.installed() if p.kind in ("plugin", "callback")]
    member = specimen(plugin)
    for declaration in DECLARATIONS:
        for target in member.targets(declaration):
            if isinstance(target, str) and (near := _near(target, known)):
                yield f'{declaration} names "{target}", which is not installed.{near}'


def _doubts_about(configuration: Configuration) -> Iterator[str]:
    """Names in the configuration that nobody has, but somebody nearly."""
    known = [plugin.name for plugin in discovery.installed()]
    named = dict(configuration.disabled)
    for option_name in configuration.options:
        if option_name not in configuration.enabled:
            named.setdefault(option_name, configuration.options_source)
    for name, source in named.items():
        if near := _near(name, known):
            yield f'{source} names "{name}", which is not installed.{near}'


def _enabled_and_absent(configuration: Configuration) -> Iterator[str]:
    """What is enabled and keeps every Learner from being made, since nobody has it."""
    for name, source in configuration.enabled.items():
        if configuration.disabler(name) is None:
            try:
                discovery.find(name, "callback", "plugin")
            except CallboardError as error:
                yield f"{source} names {name}: {error}"


def _near(name: str, known: Sequence[str]) -> str:
    """A suggestion for a name, unless somebody has it or offers it."""
    is_known = name in known or discovery.offered_by(name) is not None
    return "" if is_known else suggestion(name, known)


def _faults_together(
    configuration: Configuration, named: Sequence[Report]
) -> Iterator[str]:
    """Rings among all that is installed; conflicts among what would be active.

    What would be active are the automatic plugins, what the configuration enables, and
    the plugin that was named.
    """
    chosen = {report.plugin.name for report in named}
    try:
        board_of(gathered(usable(configuration))[0])
    except CallboardError as error:
        if not chosen or chosen & {*getattr(error, "ring", ())}:
            yield str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # who is broken has been told already
        members = list(automatic(configuration))
    added = _with_required(chosen | {*configuration.enabled}, members, configuration)
    try:
        joined(members, added, configuration)
    except CallboardError as error:
        yield str(error)


def _with_required(
    names: set[str], present: Sequence[ActivePlugin], configuration: Configuration
) -> list[ActivePlugin]:
    """Specimens of these plugins, and of those that they require, where installed."""
    there = {member.name for member in present}
    others = {p.name for p in usable(configuration)} - there
    while True:
        named = [plugin for plugin in usable(configuration) if plugin.name in names]
        members = gathered(named)[0]
        targets = [target for m in members for target in m.targets("requires")]
        required = {target for target in targets if isinstance(target, str)}
        if not (lacking := required & others - names):
            return members
        names = names | lacking
