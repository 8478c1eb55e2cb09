"""What a plugin does to its process is seen: by its import, and in its first fit."""

import pytest
import torch

from callboard import discovery
from callboard.errors import BrokenPluginError
from callboard.testing import check_plugin
from callboard.testing.conformance.furnishing import what_was_left
from callboard.testing.conformance.imports import imports_of

IMPORTS = "import gc, logging, os, random, signal, time, torch\n"
CALLBACK = '''
from callboard import Callback

class Odd(Callback):
    """A callback that a test made up."""
    name = "odd"
    role = "observe"

    def before_fit(self):
        {}
'''


def install(site, source):
    site.install(
        "odd-things",
        callbacks={"odd": "odd_things:Odd"},
        modules={"odd_things": IMPORTS + source},
    )
    return discovery.find("odd")


def told(report, rule):
    return [f.happened for f in report.findings if f.rule == rule]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("torch.manual_seed(3)", "the stream of torch has moved."),
        ("random.seed(3)", "the stream of Python's random has moved."),
        ("torch.set_default_dtype(torch.half)", "torch.get_default_dtype() was torch."),
        ("torch.set_num_threads(7)", "torch.get_num_threads() was "),
        ("os.environ['ODD'] = '1'", "the environment was {} and is {'ODD': '1'}."),
        ("signal.signal(signal.SIGTERM, print)", "the handler of SIGTERM was "),
        ("logging.basicConfig()", "handlers of the root logger was [] and is [a "),
        ("gc.disable()", "gc.isenabled() was True and is False."),
    ],
    ids=["seed", "random", "dtype", "threads", "environ", "signal", "logging", "gc"],
)
def test_what_an_import_changes_is_seen(callboard_site, line, what):
    install(callboard_site, line)

    (change,) = imports_of(["odd_things"])["odd_things"].changes

    assert change.startswith(what)


def test_an_import_that_only_defines_changes_nothing(callboard_site):
    install(callboard_site, CALLBACK.format("torch.rand(3)"))

    imported = imports_of(["odd_things"])["odd_things"]

    assert imported.changes == []
    assert imported.brought == ["odd_things"]


def test_the_rule_about_imports_tells_what_one_changes(callboard_site, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)  # back at the end
    line = "torch.backends.cudnn.deterministic = True"
    odd = install(callboard_site, line + CALLBACK.format("..."))

    report = check_plugin(odd, one_in=50, counts_cost=False)

    assert told(report, "imports") == [
        "after importing odd_things, torch.backends.cudnn.deterministic was False and "
        "is True."
    ]


def test_an_import_that_takes_seconds_is_a_doubt(callboard_site):
    odd = install(callboard_site, "time.sleep(1.1)" + CALLBACK.format("..."))

    report = check_plugin(odd, one_in=50, counts_cost=False)

    assert report.findings == []
    assert report.notes[0].startswith("Importing odd_things took 1.")


def test_what_only_the_first_fit_changes_is_told(callboard_site, monkeypatch):
    monkeypatch.setenv("ODD", "0")
    odd = install(callboard_site, CALLBACK.format("os.environ['ODD'] = '1'"))

    report = check_plugin(odd, one_in=50, counts_cost=False)

    assert told(report, "removable") == [
        "after its fit, the environment was {'ODD': '0'} and is {'ODD': '1'}."
    ]


def test_what_a_client_changes_for_good_is_no_fault_where_it_is_named(
    callboard_site, monkeypatch
):
    monkeypatch.setenv("ODD", "0")
    odd = install(
        callboard_site,
        CALLBACK.format("os.environ['ODD'] = '1'")
        + """
def callboard_specimens():
    from callboard.testing import Specimen

    return {"odd": Specimen(leaves=["the environment"])}
""",
    )

    assert check_plugin(odd, one_in=50, counts_cost=False).findings == []


def test_of_long_lists_only_what_differs_is_told():
    before = {"running threads": ["thread-N"] * 50}
    after = {"running threads": ["a new one", *before["running threads"], "thread-N"]}

    assert list(what_was_left(before, after)) == [
        "running threads was [] and is ['a new one', 'thread-N']."
    ]


def test_what_ends_the_process_is_a_finding_and_does_not_end_the_check(callboard_site):
    odd = install(callboard_site, CALLBACK.format("raise SystemExit(0)"))

    report = check_plugin(odd, counts_cost=False)

    assert told(report, "ends") == ["it ended the process: SystemExit(0)."]
    assert "resume" in report.untried


def test_an_observer_that_refuses_to_be_there_twice_is_no_finding(callboard_site):
    source = CALLBACK.replace("    role", '    run_after = "odd"\n    role').format(
        "..."
    )
    odd = install(callboard_site, source)

    report = check_plugin(odd, one_in=50, counts_cost=False)

    assert report.findings == []


def test_an_error_that_only_the_second_run_raises_is_a_finding(callboard_site):
    odd = install(
        callboard_site,
        CALLBACK.replace("observe", "control").format(
            "if SEEN: raise ValueError('once')\n        SEEN.append(1)"
        )
        + "SEEN = []\n",
    )

    report = check_plugin(odd, one_in=50, counts_cost=False)

    (repeatable,) = told(report, "repeatable")
    assert repeatable.startswith("it raised ValueError: once (odd_things.py:11), in ")


def test_specimens_that_cannot_be_made_are_told_in_a_sentence(callboard_site):
    source = CALLBACK.format("...") + "def callboard_specimens(): return 1 / 0\n"
    odd = install(callboard_site, source)

    told = "callboard_specimens of odd_things raised ZeroDivisionError: division by"
    with pytest.raises(BrokenPluginError, match=told):
        check_plugin(odd)


def test_one_that_stops_the_run_keeps_every_rule(callboard_site):
    callback = CALLBACK.replace("observe", "control").replace(
        "before_fit", "after_epoch"
    )
    odd = install(callboard_site, callback.format("self.learn.stop('enough')"))

    assert check_plugin(odd, one_in=50, counts_cost=False).findings == []


@pytest.mark.parametrize(
    ("event", "line", "doubt"),
    [
        (
            "after_loss",
            "self.kept = [*getattr(self, 'kept', []), self.learn.loss]",
            "self.kept keeps 6 tensors with all that their gradients need",
        ),
        (
            "after_train",
            "self.learn.results['odd'] = self.learn.loss",
            'It publishes a tensor as results["odd"]',
        ),
        (
            "after_fit",
            "open('odd.txt', 'w').close()",
            "It writes odd.txt into the working folder",
        ),
    ],
    ids=["graphs", "results", "files"],
)
def test_what_an_author_may_not_have_meant_is_a_doubt(
    callboard_site, event, line, doubt
):
    callback = CALLBACK.replace("before_fit", event)
    odd = install(callboard_site, callback.format(line))

    report = check_plugin(odd, one_in=50, counts_cost=False)

    assert report.notes[0].startswith(doubt)
