"""Every error that Callboard raises on purpose, in one tree.

CallboardError
├── UnknownEventError         a method or hookimpl is named like no event
├── HookSignatureError        a hookimpl asks for arguments that its event lacks
├── UnknownPluginError        a name that no installed plugin has
├── DoubledPluginError        two distributions claim one name
├── BrokenPluginError         an installed plugin that cannot be imported or used
├── ActivationError           plugins that cannot take part together, or twice
├── OptionError               an option that a plugin lacks, or a wrong value
├── ConfigurationError        a configuration file or variable that is wrong
├── OrderingError             constraints that no order can meet
├── MisplacedCancelError      a cancel raised where its level is not open
├── DataError                 data or a batch that the loop cannot use
├── NonFiniteError            the loss or the weights became NaN or infinite
├── TargetError               a command-line target that gives no Learner
├── LockError                 a lock that cannot be read, or that does not hold
├── CheckError                a run that did not pass a check, as a budget of its time
└── StateError                a saved state that does not fit

A mistake of the user is one of these; the command line prints it without a
traceback and exits with 2, with 1 after a check that was not passed. An error raised
inside a plugin keeps its own type and carries a note that names the plugin.
"""

from __future__ import annotations

from collections.abc import Iterable


class CallboardError(Exception):
    """Base of every error that Callboard raises on purpose."""


class UnknownEventError(CallboardError, TypeError):
    """A method or hookimpl is named like an event and is none."""


class HookSignatureError(CallboardError, TypeError):
    """A hookimpl asks for arguments that its event does not pass."""


class UnknownPluginError(CallboardError, LookupError):
    """No installed plugin has this name."""


class DoubledPluginError(CallboardError):
    """Two installed distributions claim one name."""


class BrokenPluginError(CallboardError):
    """An installed plugin cannot be imported, or is not what it says it is.

    ``reason`` says in short what is wrong, for where plugin and distribution are named
    already.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class ActivationError(CallboardError):
    """These plugins cannot take part in one Learner as asked."""


class OptionError(CallboardError, ValueError):
    """A plugin has no such option, or the value is not one it can take."""


class ConfigurationError(CallboardError):
    """A configuration file or environment variable says something impossible."""


class OrderingError(CallboardError):
    """No order meets all constraints; ``ring`` holds the keys that go round."""

    def __init__(self, message: str, ring: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.ring = ring


class MisplacedCancelError(CallboardError):
    """A cancel was raised at a moment when its level was not open."""


class DataError(CallboardError):
    """The data, or one batch of it, cannot be used by the loop."""


class NonFiniteError(CallboardError, ArithmeticError):
    """The loss or the weights are NaN or infinite: nothing more can be learned."""


class TargetError(CallboardError):
    """A command-line target does not lead to a Learner."""


class LockError(CallboardError):
    """A lock of plugins cannot be read, or what is active is not what it says."""


class CheckError(CallboardError):
    """A run came to its end and did not pass a check that was asked for."""


class StateError(CallboardError):
    """A saved state does not fit what it is loaded into."""


class CallboardWarning(UserWarning):
    """Base of every warning that Callboard gives."""


class ShadowWarning(CallboardWarning):
    """A plugin keeps an attribute that hides one of the Learner's."""


class ObserverWarning(CallboardWarning):
    """An observer failed and was switched off; training goes on."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest known name, or nothing.

    >>> suggestion("mixpu", ["mixup", "cutmix"])
    ' Did you mean "mixup"?'
    """
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else ""
