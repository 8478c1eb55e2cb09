"""Any two plugins of ours work together, or are refused with the reason.

Some pairs are tried here; ``nox -s pairs`` tries all, and goes on from more moments.
"""

from itertools import combinations

import pytest
from tests.pairing import (
    Pair,
    Subject,
    all_pairs,
    catalogue,
    some_pairs,
    tried,
)

from callboard import discovery
from callboard.testing import Site

HEADER = "from callboard import Callback\n\n"
SETS_THE_RATE = """
class {name}(Callback):
    role = "control"
    {declared}

    def before_batch(self):
        for group in self.opt.param_groups:
            group["lr"] = {rate}
"""
FORGETS = """
class Forgets(Callback):
    number = 0

    def before_batch(self):
        self.number += 1
        for group in self.learn.opt.param_groups:
            group["lr"] = 0.1 / self.number
"""
MEDDLES = """
class Meddles(Callback):
    role = "observe"

    def after_backward(self):
        for parameter in self.learn.model.parameters():
            parameter.grad.mul_(0.5)
"""


# Of services, which are tried in processes of their own.
CLIENTS = {"azure-ml", "comet", "mlflow", "wandb"}


@pytest.fixture
def outcome_of(tmp_path):
    """Tries the two callbacks of a module that a test makes up."""
    site = Site(tmp_path / "site-packages")

    def outcome(*classes):
        source = HEADER + "\n".join(classes)
        names = [line.split("(")[0][6:] for line in source.splitlines() if "(C" in line]
        callbacks = {name.lower(): f"shop_lamps:{name}" for name in names}
        site.install("shop-lamps", callbacks=callbacks, modules={"shop_lamps": source})
        return tried(*(discovery.find(name) for name in callbacks))

    with site.on_path():
        yield outcome


@pytest.mark.parametrize("pair", some_pairs(), ids=" + ".join)
def test_two_plugins_work_together_or_are_refused_with_the_reason(pair):
    if CLIENTS & set(pair):
        pytest.skip("its client leaves sockets open; `nox -s pairs` tries it")
    outcome = tried(*(catalogue()[name] for name in pair))

    assert not outcome.findings, "\n\n".join(outcome.findings)
    if outcome.verdict == "untried":
        pytest.skip("the client of one of them is not installed")


def test_every_plugin_is_tried_with_others():
    num_partners = dict.fromkeys(catalogue(), 0)
    for pair in some_pairs():
        for name in pair:
            num_partners[name] += 1

    callbacks = [n for n, plugin in catalogue().items() if plugin.kind != "method"]
    assert min(num_partners.values()) >= 1
    assert min(num_partners[name] for name in callbacks) >= 3


def test_a_plugin_is_paired_with_all_others_but_a_method_with_no_method():
    names = set(map(frozenset, all_pairs()))
    methods = {n for n, plugin in catalogue().items() if plugin.kind == "method"}

    others = set(map(frozenset, combinations(catalogue(), 2))) - names

    assert len(names) == len(all_pairs())
    assert all(pair <= methods for pair in others)


def test_every_conflict_that_is_declared_is_refused_with_its_reason(tmp_path):
    declared = [
        (catalogue()[one], catalogue()[other])
        for one, other in all_pairs()
        if Pair(
            *(Subject(catalogue()[n], tmp_path) for n in (one, other)), tmp_path
        ).declared_reasons
    ]

    outcomes = [tried(*pair) for pair in declared]

    assert "cutmix + mixup" in map(str, outcomes)
    assert [each.findings for each in outcomes if each.findings] == []
    assert {each.verdict for each in outcomes} == {"refused"}


def test_two_that_hang_on_which_was_given_first_are_found(outcome_of):
    first = SETS_THE_RATE.format(name="Low", rate=0.01, declared="")
    second = SETS_THE_RATE.format(name="High", rate=0.02, declared="")

    (finding,) = outcome_of(first, second).findings

    assert "in the other sequence, model" in finding


def test_two_whose_sequence_is_declared_work_together(outcome_of):
    first = SETS_THE_RATE.format(name="Low", rate=0.01, declared="run_after = 'high'")
    second = SETS_THE_RATE.format(name="High", rate=0.02, declared="")

    outcome = outcome_of(first, second)

    assert (outcome.verdict, outcome.num_resumed) == ("together", 1)


def test_one_that_forgets_its_state_is_found(outcome_of):
    (finding,) = outcome_of(FORGETS, "class Still(Callback):\n    pass\n").findings

    assert "going on from 1 batches of epoch 1: model" in finding


def test_an_observer_that_changes_what_the_other_trains_is_found(outcome_of):
    (finding,) = outcome_of(MEDDLES, "class Still(Callback):\n    pass\n").findings

    assert "with and without the observer meddles, model" in finding


def test_a_conflict_without_a_reason_is_found(outcome_of):
    first = SETS_THE_RATE.format(name="Low", rate=1, declared="conflicts_with = 'high'")
    second = SETS_THE_RATE.format(name="High", rate=2, declared="")

    (finding,) = outcome_of(first, second).findings

    assert "refused without a reason" in finding


def test_a_conflict_with_a_reason_is_as_it_should_be(outcome_of):
    why = "conflicts_with = {'high': 'both set the rate'}"
    first = SETS_THE_RATE.format(name="Low", rate=0.01, declared=why)
    second = SETS_THE_RATE.format(name="High", rate=0.02, declared="")

    assert outcome_of(first, second).verdict == "refused"
