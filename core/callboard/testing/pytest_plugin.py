"""What pytest gets by Callboard being installed: ``pytest --callboard NAME``.

It adds one test for each rule of the conformance suite to those that pytest has found,
and the fixture ``callboard_site``. Nothing of torch is imported unless one is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from callboard.testing.limiting import TIMEOUT

if TYPE_CHECKING:
    from callboard.testing.conformance import Report, Rule, Subject
    from callboard.testing.sites import Site

COST = "callboard: cost of a step"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--callboard``."""
    group = parser.getgroup("callboard", "Callboard's plugins")
    group.addoption(
        "--callboard",
        metavar="NAME",
        action="append",
        default=[],
        help="test the installed plugin NAME by the rules that every plugin keeps; "
        "may be given several times",
    )
    group.addoption(
        "--callboard-timeout",
        metavar="SECONDS",
        type=float,
        default=TIMEOUT,
        help=f"what one of these rules may take (default: {TIMEOUT:g})",
    )


@pytest.fixture
def callboard_site(tmp_path: Path) -> Iterator[Site]:
    """A folder for made-up distributions that count as installed in the test."""
    from callboard.testing.sites import Site

    with Site(tmp_path / "site-packages").on_path() as site:
        yield site


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add the rules of the plugins that ``--callboard`` names."""
    names: list[str] = config.getoption("--callboard")
    for name in names:
        suite = PluginSuite.from_parent(session, name=name, nodeid=f"callboard/{name}")
        items.extend(suite.collect())


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what a training step costs with each plugin that was tried."""
    for report in terminalreporter.stats.get("passed", ()):
        for what, words in getattr(report, "user_properties", ()):
            if what == COST:
                terminalreporter.write_line(words)


class PluginSuite(pytest.Collector):
    """The rules for one installed plugin; they share its runs."""

    def collect(self) -> Iterator[pytest.Item]:
        """One test for each rule, and one that counts."""
        from callboard import discovery
        from callboard.errors import CallboardError
        from callboard.testing.conformance import Report, rules_for

        try:
            installed = discovery.find(self.name)
        except CallboardError as error:
            raise pytest.UsageError(f"--callboard {self.name}: {error}") from error
        self.installed = installed
        self.report: Report = Report(installed)
        for rule in rules_for(installed):
            yield RuleItem.from_parent(self, name=rule.name, rule=rule)
        yield CostItem.from_parent(self, name="cost")

    def setup(self) -> None:
        """Make what all rules share."""
        from callboard.testing.conformance import prepared

        self._stack = ExitStack()
        timeout: float = self.config.getoption("--callboard-timeout")
        self.subject: Subject = self._stack.enter_context(
            prepared(self.installed, timeout=timeout)
        )

    def teardown(self) -> None:
        """Take away the files of all runs."""
        self._stack.close()


class RuleItem(pytest.Item):
    """A plugin keeps a rule."""

    def __init__(self, *, rule: Rule, **settings: Any) -> None:
        super().__init__(**settings)
        self.rule = rule

    def runtest(self) -> None:
        """Try the plugin out."""
        from callboard.testing.conformance import tried

        suite = self.getparent(PluginSuite)
        assert suite is not None
        report: Report = suite.report
        findings = tried(self.rule, suite.subject, report)
        if findings:
            raise BrokenRuleError("\n\n".join(map(str, findings)))
        if self.rule.name in report.exempt:
            pytest.skip(report.exempt[self.rule.name])
        if self.rule.name in report.untried:
            pytest.skip("a rule that this one rests on is broken")

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """The findings alone, where there are some."""
        if isinstance(excinfo.value, BrokenRuleError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """What pytest calls it."""
        suite = self.getparent(PluginSuite)
        assert suite is not None
        words = f"{suite.name} keeps the rule {self.rule.name!r}"
        return Path(suite.nodeid), None, words


class CostItem(pytest.Item):
    """Counts what a training step costs more because of a plugin."""

    def runtest(self) -> None:
        """Count, and tell pytest's summary."""
        from callboard.testing.conformance import cost_of_a_step

        suite = self.getparent(PluginSuite)
        assert suite is not None
        if suite.report.untried or suite.subject.is_stuck:
            pytest.skip("a rule that this one rests on is broken")
        cost = cost_of_a_step(suite.subject)
        if cost is not None:
            self.user_properties.append((COST, f"{suite.name}: {cost}"))

    def reportinfo(self) -> tuple[Path, None, str]:
        """What pytest calls it."""
        suite = self.getparent(PluginSuite)
        assert suite is not None
        return Path(suite.nodeid), None, f"{suite.name}: cost of a step"


class BrokenRuleError(Exception):
    """A plugin does not keep a rule; the message is the findings."""
