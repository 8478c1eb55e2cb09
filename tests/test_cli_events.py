"""``callboard events``."""

import pytest
from tests.command_line import run

from callboard.events import EVENTS


def test_events_are_listed_in_firing_order_with_kind_and_summary():
    lines = run("events").stdout.splitlines()

    assert [line.split()[0] for line in lines] == list(EVENTS)
    assert lines[2].split()[:2] == ["before_fit", "event"]
    assert lines[2].endswith("A fit begins.")


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_described_in_full(name):
    text = run("events", name).stdout

    assert text.startswith(f"{name}({', '.join(EVENTS[name].parameters)}): a")
    for word in EVENTS[name].documentation.split():
        assert word.replace("``", "`") in text


@pytest.mark.parametrize("name", ["after_epock", "after-epoch"])
def test_a_wrong_event_gets_a_suggestion(name):
    assert 'Did you mean "after_epoch"?' in run("events", name, code=2).stderr
