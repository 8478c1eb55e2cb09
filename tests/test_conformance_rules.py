"""For every rule of the conformance suite a plugin that breaks it is told so."""

import os
import re
import signal
import textwrap
from pathlib import Path

import pytest

from callboard import discovery
from callboard.testing import RULES, Specimen, check_plugin
from callboard.testing.conformance import imports, prepared
from callboard.testing.conformance.imports import SCRIPT
from callboard.testing.conformance.suite import rule_named

HEAD = """\
import torch
from callboard import Callback, hookimpl
"""
CALLBACK = '''
class Odd(Callback):
    """A callback that a test made up."""
    name = "odd"
'''
BULKY = {f"bulky.part{number}": "" for number in range(40)}
# Rule -> what a plugin that breaks it does, and what is said of it.
BREAKERS = {
    "declared": (
        "def after_epock(self): ...",
        'Did you mean "after_epoch"?',
    ),
    "made": (
        "def __init__(self, alpha: float): self.alpha = alpha",
        "cannot be made without alpha",
    ),
    "ends": (
        """
        def after_batch(self):
            raise ValueError("not today")
        """,
        "ValueError: not today",
    ),
    "repeatable": (
        """
        num_fits = 0
        def before_fit(self):
            Odd.num_fits += 1
            self.learn.opt.param_groups[0]["lr"] *= Odd.num_fits
        """,
        "in two runs of two Learners",
    ),
    "unlabelled": (
        """
        def before_batch(self):
            self.label = self.learn.yb[0]
        """,
        "IndexError",
    ),
    "mappings": (
        """
        def before_batch(self):
            self.first = self.learn.xb[0]
        """,
        "where batches are mappings, KeyError",
    ),
    "no-validation": (
        """
        def before_fit(self):
            self.size = len(self.dls.valid)
        """,
        "without validation data, TypeError",
    ),
    "nested": (
        """
        stages = ("fit", "validate", "predict")
        num_validations = 0
        def before_validate(self):
            self.num_validations += 1
        def state_dict(self):
            return {"num_validations": self.num_validations}
        def load_state_dict(self, state):
            self.num_validations = state["num_validations"]
        """,
        "did not end as without evaluations",
    ),
    "side-by-side": (
        """
        is_taken = False
        def before_fit(self):
            assert not Odd.is_taken, "the class is taken"
            Odd.is_taken = True
        def teardown(self):
            Odd.is_taken = False
        """,
        "two in one Learner: AssertionError: the class is taken",
    ),
    "writes": (
        """
        role = "observe"
        def after_loss(self):
            if self.learn.loss is not None:
                self.learn.loss = self.learn.loss * 2
        """,
        "after_loss changed learner.loss",
    ),
    "draws": (
        """
        role = "observe"
        def before_batch(self):
            torch.rand(3)
        """,
        "before_batch drew from the stream of torch",
    ),
    "harmless": (
        """
        role = "observe"
        def before_batch(self):
            torch.rand(3)
        """,
        "with and without it, model.",
    ),
    "removable": (
        """
        def before_fit(self):
            self.learn.model.register_forward_hook(lambda *given: None)
        """,
        "after its fit, model._forward_hooks was 0 and is 1",
    ),
    "state": (
        """
        def state_dict(self):
            return {"seen": [torch.nn.ReLU()]}
        """,
        "state['seen'][0] is a ReLU",
    ),
    "resume": (
        """
        num_steps = 0
        def before_fit(self):
            self.num_steps = 0
        def before_step(self):
            self.num_steps += 1
            self.learn.opt.param_groups[0]["lr"] = 0.01 / self.num_steps
        """,
        "going on from 1 batches of epoch 0",
    ),
    "exchanges": (
        """
        role = "observe"
        def after_epoch(self):
            self.total = self.learn.processes.sum([1.0])
        """,
        "after_epoch called learner.processes.sum, in the main process alone (an",
    ),
    "cancels": (
        """
        def before_train(self):
            self.before, self.learn.loss_func = self.learn.loss_func, loss
        def after_train(self):
            self.learn.loss_func = self.before
        """,
        "after a cancel of the outermost level at do_batch, learner.loss_func",
    ),
    "errors": (
        """
        @hookimpl(wrapper=True)
        def do_batch(self):
            try:
                return (yield)
            except RuntimeError:
                return True
        """,
        "no error left the fit",
    ),
}


@pytest.fixture
def findings_of(callboard_site):
    """Install a made-up plugin, and gather what a rule has to say about it."""

    def findings_of(rule, source, kind="callback", needed=()):
        callboard_site.install(
            "strange-odd",
            **{f"{kind}s": {"odd": "strange_odd:Odd"}},
            modules={"strange_odd": HEAD + source, **dict(needed)},
        )
        with prepared(discovery.find("odd")) as subject:
            return rule_named(rule).findings(subject)

    return findings_of


def a_callback(body):
    loss = "\n\ndef loss(pred, labels):\n    return pred.square().mean()\n"
    return CALLBACK + textwrap.indent(textwrap.dedent(body), "    ") + loss


@pytest.mark.parametrize("rule", BREAKERS)
def test_a_plugin_that_breaks_a_rule_is_told_what_happened_and_what_to_do(
    rule, findings_of
):
    body, message = BREAKERS[rule]

    findings = findings_of(rule, a_callback(body))

    assert any(message in finding.happened for finding in findings), findings
    assert {finding.rule for finding in findings} == {rule}
    assert str(findings[0]).splitlines()[1].startswith("  expected: ")
    assert str(findings[0]).splitlines()[3].startswith("  to mend:  ")


def test_what_many_errors_leave_alike_is_told_once(findings_of):
    source = a_callback("""
        def before_fit(self):
            self.hook = self.learn.model.register_forward_hook(lambda *given: None)
        def after_fit(self):
            self.hook.remove()
        """)

    [finding] = findings_of("errors", source)

    assert "after Ctrl-C at after_batch, model._forward_hooks was 0" in finding.happened
    assert re.search(r"So it is after \d\d more: an error at", finding.happened)


def test_a_collective_of_torch_that_only_the_main_process_calls_is_found(findings_of):
    source = a_callback("""
        role = "observe"
        ranks = "main"
        def after_epoch(self):
            import torch.distributed as dist
            if dist.is_initialized():
                dist.all_reduce(torch.ones(1))
        """)

    [finding] = findings_of("exchanges", source)

    assert "after_epoch called torch.distributed.all_reduce" in finding.happened
    assert 'ranks is "main"' in finding.happened


def test_what_all_processes_call_is_no_fault(findings_of):
    source = a_callback("""
        ranks = "all"
        def after_epoch(self):
            self.total = self.learn.processes.sum([1.0])
        """)

    assert findings_of("exchanges", source) == []


def test_heavy_imports_are_told_with_their_number(findings_of):
    imports = "".join(f"import {name}\n" for name in BULKY)

    [finding] = findings_of("imports", imports + CALLBACK, needed=BULKY)

    assert finding.happened == "importing strange_odd imported 41 modules of bulky."


def test_a_method_that_asks_for_more_than_numbers_must_say_how_to_call_it(findings_of):
    method = "def Odd(learner, path: str, n_epoch: int): ..."

    [finding] = findings_of("callable", method, "method")

    assert "path: str" in finding.happened
    assert "def callboard_specimens():" in finding.happened


def test_a_command_must_say_what_it_does(findings_of):
    command = "import click\n@click.command()\ndef Odd(): ..."

    [finding] = findings_of("helps", command, "command")

    assert "no word" in finding.happened


def test_every_rule_has_a_plugin_here_that_breaks_it():
    beside = {"imports", "callable", "helps"}

    assert {*BREAKERS} | beside == {rule.name for rule in RULES}


def test_a_controller_may_set_the_rate_but_not_change_the_batch(findings_of):
    source = a_callback("""
        role = "control"
        def before_batch(self):
            self.learn.opt.param_groups[0]["lr"] = 0.5
            self.learn.xb = tuple(x + 1 for x in self.learn.xb)
        """)

    [finding] = findings_of("writes", source)

    assert "learner.xb" in finding.happened


@pytest.mark.parametrize(
    ("deed", "told"),
    [
        ("clear()", '["published"] from 0.25 to nothing.'),
        ("update(published=0.5, odd=1.0)", '["published"] from 0.25 to 0.5.'),
        ("update(odd=self.learn.epoch)", None),
    ],
)
def test_an_observer_leaves_what_others_have_published(findings_of, deed, told):
    source = a_callback(f"""
        role = "observe"
        def after_epoch(self):
            self.learn.results.{deed}
        """)

    happened = [finding.happened for finding in findings_of("writes", source)]

    assert [told in what for what in happened] == ([True] if told else [])


def test_an_observer_that_returns_another_prediction_is_told_so(findings_of):
    source = a_callback("""
        role = "observe"
        @hookimpl(wrapper=True)
        def do_predict(self):
            pred = yield
            return pred * 2
        """)

    [finding] = findings_of("writes", source)

    assert "do_predict changed the result of the event from float32" in finding.happened


def test_what_is_not_plain_and_what_does_not_come_back_is_no_state(findings_of):
    source = a_callback("""
        num_fits = 0
        def before_fit(self):
            self.num_fits += 1
        def state_dict(self):
            return {"num_fits": self.num_fits}
        """)

    [finding] = findings_of("state", source)

    assert "state.num_fits is 0 in one and 1 in the other" in finding.happened


def test_a_refusal_in_words_of_callboard_is_no_fault(findings_of):
    source = a_callback("""
        def before_fit(self):
            from callboard.errors import OptionError
            if self.learn.loss_func is None:
                raise OptionError("odd: give Learner(loss_func=...).")
        """)

    assert findings_of("unlabelled", source) == []


# ---- the whole suite ------------------------------------------------------------


def install(site, source, kind="callback"):
    site.install(
        "strange-odd",
        **{f"{kind}s": {"odd": "strange_odd:Odd"}},
        modules={"strange_odd": HEAD + source},
    )


def test_a_good_plugin_keeps_every_rule_and_its_cost_is_counted(callboard_site):
    install(callboard_site, a_callback("def after_batch(self): ..."))

    report = check_plugin("odd")

    assert report.findings == []
    assert report.cost.python_calls == pytest.approx(1)
    assert (report.cost.tensor_operations, report.cost.host_reads) == (0, 0)


def test_a_module_with_hookimpls_is_tried_too(callboard_site):
    callboard_site.install(
        "strange-module",
        plugins={"noting": "strange_module"},
        modules={
            "strange_module": "from callboard import hookimpl\n"
            "role = 'observe'\nname = 'noting'\n"
            "@hookimpl\ndef after_batch(learner): ..."
        },
    )

    assert check_plugin("noting").findings == []


def test_a_method_is_called_with_two_for_every_whole_number(callboard_site):
    source = "def Odd(learner, n_epoch: int):\n    learner.fit(n_epoch)\n"
    install(callboard_site, source, "method")

    report = check_plugin("odd", one_in=5)

    assert report.findings == []
    assert report.cost is None


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="has no alarms")
def test_a_plugin_that_never_comes_back_is_cut_short_and_tried_no_further(
    callboard_site,
):
    source = a_callback("""
        def after_validate(self):
            while self.learn.dls.valid is not None:
                try:
                    time.sleep(1)
                except Exception:
                    pass
        """)
    install(callboard_site, "import time\n" + HEAD + source)

    report = check_plugin("odd", timeout=5)

    [finding] = report.findings
    assert finding.rule == "ends"
    assert (
        "it had not come back after 5 seconds, in after_validate (strange_odd.py:"
        in (finding.happened)
    )
    assert "repeatable" in report.untried
    assert report.cost is None


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="has no alarms")
def test_an_import_that_never_ends_in_another_process_is_cut_short(callboard_site):
    # Where it is checked it has been imported, and so nothing hangs.
    waits = f"import os, time\nif os.getpid() != {os.getpid()}: time.sleep(99)\n"
    install(callboard_site, waits + CALLBACK)

    report = check_plugin("odd", timeout=5)

    [finding] = report.findings
    assert finding.rule == "imports"
    assert finding.happened == (
        "importing strange_odd in a process of its own had not come back after 5 "
        "seconds."
    )
    assert "ends" in report.untried


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="has no alarms")
def test_the_start_of_a_process_does_not_count_as_an_import(
    callboard_site, monkeypatch
):
    install(callboard_site, CALLBACK)
    monkeypatch.setattr(imports, "SCRIPT", "import time\ntime.sleep(6)\n" + SCRIPT)

    report = check_plugin("odd", timeout=5, one_in=50, counts_cost=False)

    assert "imports" in report.kept


def test_where_a_basic_rule_is_broken_the_others_are_not_tried(callboard_site):
    install(callboard_site, a_callback(BREAKERS["made"][0]))

    report = check_plugin("odd")

    assert [finding.rule for finding in report.findings] == ["made"]
    assert "ends" in report.untried
    assert report.cost is None


def test_an_exemption_is_shown_with_its_reason(callboard_site):
    source = a_callback(BREAKERS["removable"][0]) + textwrap.dedent("""
        def callboard_specimens():
            from callboard.testing import Specimen
            return {"odd": Specimen(exempt={"removable": "the hook is meant to stay"})}
        """)
    install(callboard_site, source)

    report = check_plugin("odd", one_in=50, counts_cost=False)

    assert report.exempt == {"removable": "the hook is meant to stay"}
    assert "removable" not in {finding.rule for finding in report.findings}


def test_what_needs_a_module_that_nobody_installed_is_not_tried(callboard_site):
    source = a_callback("") + textwrap.dedent("""
        def callboard_specimens():
            from callboard.testing import Specimen
            return {"odd": Specimen(needs=["no_such_client"])}
        """)
    install(callboard_site, source.replace('name = "odd"', 'name = "odd"\n    pass'))

    report = check_plugin("odd")

    assert report.findings == []
    assert "ends" in report.untried
    assert "no_such_client cannot be imported" in report.notes[0]


def test_nothing_is_left_behind_by_a_check(callboard_site, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(Path.cwd().iterdir())
    install(callboard_site, a_callback("def after_batch(self): print('hello')"))

    check_plugin("odd", one_in=20, counts_cost=False)

    assert Path.cwd() == tmp_path
    assert sorted(Path.cwd().iterdir()) == before


def test_a_specimen_of_no_known_kind_is_refused():
    from callboard.errors import BrokenPluginError

    with pytest.raises(BrokenPluginError, match="learner must be one of"):
        Specimen(learner="classifications")
