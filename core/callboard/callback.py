"""What a plugin is: the ``Callback`` base class, ``hookimpl`` and the roles.

    class PrintLoss(Callback):
        run_after = "recorder"

        def after_epoch(self):
            print(f"epoch {self.epoch}: {self.learn.loss:.4f}")

Methods named as events are hookimpls. ``self.learn`` is the Learner; what the callback
itself lacks is read from it. Writing goes to ``self``: to change training, assign to
``self.learn``.
"""

from __future__ import annotations

import inspect
import re
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pluggy

from callboard.errors import (
    ActivationError,
    HookSignatureError,
    ShadowWarning,
    UnknownEventError,
    suggestion,
)
from callboard.events import EVENTS, PROJECT

if TYPE_CHECKING:
    from callboard.learner import Learner
    from callboard.state import RandomStream

hookimpl = pluggy.HookimplMarker(PROJECT)

Role = Literal["observe", "control", "modify"]
ROLES: Mapping[str, str] = {
    "observe": "reads only; if it fails it is switched off and training goes on",
    "control": "may cancel and stop, and may set hyper-parameters",
    "modify": "may change the batch, the loss, gradients and the model",
}
STAGES = ("fit", "validate", "predict", "lr-find")
Ranks = Literal["main", "all"]
RANKS: Mapping[str, str] = {
    "main": "runs in the first of several processes alone",
    "all": "runs in every process",
}
Target = str | type | Sequence[str | type]
EVENT_PREFIXES = ("before_", "after_", "do_", "on_")

LEARNER_ATTRIBUTES = (
    *("dls", "model", "loss_func", "opt_func", "lr", "metrics", "splitter", "path"),
    *("device", "seed", "train_bn", "opt", "cbs", "stage", "training", "epoch"),
    *("n_epoch", "iter", "n_iter", "train_iter", "pct_train", "dl", "xb", "yb", "x"),
    *("y", "pred", "loss", "loss_grad", "results", "record", "stop_reason", "plan"),
    *("fit", "validate", "add_cb", "add_cbs", "remove_cb", "remove_cbs", "added_cbs"),
    *("removed_cbs", "stop", "freeze", "freeze_to", "unfreeze", "create_opt"),
    *("show_training_loop", "evaluating", "run_validation", "position"),
    *("resume_next_fit", "note_non_finite", "on_non_finite", "watched_by"),
    *("backward_loss", "processes", "rank", "world_size", "is_main", "non_finite"),
)


class _LearnerAttribute:
    """Reads an attribute of the Learner; says so when an assignment would hide it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, callback: Callback | None, owner: type) -> Any:
        if callback is None:
            return self
        try:
            return callback.__dict__[self.name]
        except KeyError:
            return getattr(callback._learner_for(self.name), self.name)

    def __set__(self, callback: Callback, value: object) -> None:
        if self.name not in callback.__dict__:
            warn_of_shadow(type(callback).__name__, self.name, stacklevel=3)
        callback.__dict__[self.name] = value

    def __delete__(self, callback: Callback) -> None:
        try:
            del callback.__dict__[self.name]
        except KeyError:
            message = (
                f"{type(callback).__name__} has no attribute {self.name!r} to delete"
            )
            raise AttributeError(message) from None


def warn_of_shadow(class_name: str, attribute: str, stacklevel: int) -> None:
    """Tell an author that an attribute of theirs hides one of the Learner's."""
    warnings.warn(
        f"{class_name}.{attribute} hides the Learner's {attribute!r}: reading "
        f"self.{attribute} no longer reads the Learner's. To change training write "
        f"self.learn.{attribute}; to keep a value of your own choose another name.",
        ShadowWarning,
        stacklevel=stacklevel + 1,
    )


class _LearnReference:
    """``self.learn`` outside a fit: held weakly, so that a Learner can be freed.

    During a fit the Learner stands in the callback's own ``__dict__``, which Python
    reads before this descriptor and without a call.
    """

    def __get__(self, callback: Callback | None, owner: type) -> Any:
        if callback is None:
            return self
        reference: weakref.ref[Learner] | None = callback.__dict__.get("_learn_ref")
        return None if reference is None else reference()


class _Switch:
    """``run``, ``run_train``, ``run_valid``: a change makes the Learner plan anew."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, callback: Callback | None, owner: type[Callback]) -> Any:
        if callback is None:
            return owner._switches[self.name]
        return callback.__dict__.get(self.name, owner._switches[self.name])

    def __set__(self, callback: Callback, value: bool) -> None:
        callback.__dict__[self.name] = bool(value)
        learner = callback.learn
        if learner is not None:
            learner._plan_anew()

    def __delete__(self, callback: Callback) -> None:
        callback.__dict__.pop(self.name, None)
        learner = callback.learn
        if learner is not None:
            learner._plan_anew()


class Callback:
    """Base of every callback: a plugin with state that belongs to one Learner.

    Class attributes say what the plugin is:

    Attributes:
        name: What it is called on the board; default: the class name in kebab-case
            without ``Callback``.
        run_before: Names or classes of plugins that it must run before.
        run_after: Names or classes of plugins that it must run after.
        requires: Names or classes of plugins that must be active too.
        conflicts_with: Names or classes of plugins that must not be active too; a
            mapping of them says why not: ``{"mixup": "both would mix the batch"}``.
        role: ``"observe"``, ``"control"`` or ``"modify"``.
        ranks: In which of several processes it runs: ``"main"``, the first of them, or
            ``"all"``. Default: main for an observer, all for the other roles. What runs
            on main may not wait for the other processes, which are not there.
        stages: Stages in which it takes part: ``"fit"`` (with its validation),
            ``"validate"``, ``"predict"``, ``"lr-find"``.
        run: False switches the callback off, at any time.
        run_train: False keeps it out of the batch events of training.
        run_valid: False keeps it out of the batch events of validation.
        order: A number that breaks ties between plugins that no constraint orders.
    """

    name: str = "callback"
    run_before: Target = ()
    run_after: Target = ()
    requires: Target = ()
    conflicts_with: Target | Mapping[Any, str] = ()
    role: Role = "modify"
    ranks: Ranks | None = None
    stages: Sequence[str] = ("fit",)
    order: float = 0
    _name_is_declared: ClassVar[bool] = False
    _switches: ClassVar[Mapping[str, bool]] = {
        "run": True,
        "run_train": True,
        "run_valid": True,
    }

    if TYPE_CHECKING:
        run: bool
        run_train: bool
        run_valid: bool
        learn: Learner

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _settle_name(cls)
        _settle_switches(cls)
        _check_declarations(cls)
        for attribute, value in list(vars(cls).items()):
            if callable(value):
                _check_method(cls, attribute, value)
            elif attribute in EVENTS and value is not None:
                _refuse_what_is_no_method(cls, attribute, value)
            elif attribute in LEARNER_ATTRIBUTES:
                warn_of_shadow(cls.__name__, attribute, stacklevel=2)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            message = f"{type(self).__name__!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=self)
        return getattr(self._learner_for(name), name)

    def _learner_for(self, attribute: str) -> Learner:
        learner: Learner | None = self.learn
        if learner is None:
            message = (
                f"{type(self).__name__} has no attribute {attribute!r}, and no Learner "
                "to read it from: it was not added to one yet"
            )
            raise AttributeError(message, name=attribute, obj=self)
        return learner

    def _attach(self, learner: Learner | None) -> None:
        self.__dict__.pop("learn", None)
        self.__dict__.pop("rng", None)
        self.__dict__["_learn_ref"] = None if learner is None else weakref.ref(learner)

    def _hold(self, learner: Learner | None) -> None:
        if learner is None:
            self.__dict__.pop("learn", None)
        else:
            self.__dict__["learn"] = learner

    def _switches_set(self) -> dict[str, bool]:
        return {n: vars(self)[n] for n in self._switches if n in vars(self)}

    def _set_switches(self, values: Mapping[str, bool]) -> None:
        for name in self._switches:
            vars(self).pop(name, None)
        vars(self).update(values)

    def __getstate__(self) -> dict[str, Any]:
        # A copy belongs to no Learner.
        mine = ("learn", "_learn_ref", "rng")
        return {name: v for name, v in vars(self).items() if name not in mine}

    @cached_property
    def rng(self) -> RandomStream:
        """This plugin's own stream of random numbers, on the CPU.

        A ``torch.Generator`` (``torch.randperm(n, generator=self.rng)``) with
        ``random()`` and ``beta(...)`` besides. It is seeded by the Learner's seed and
        the plugin's name, so that adding another plugin never moves these draws.
        """
        return self._learner_for("rng")._random_stream(self)

    def state_dict(self) -> dict[str, Any]:
        """What this callback must remember to resume: plain data and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned.

        A run that goes on calls it twice: before ``before_fit`` and behind it, so that
        ``before_fit`` can see the state, or make what it goes into. The first call may
        fail for want of that: an ``AttributeError`` of it is passed over.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


Callback.learn = _LearnReference()  # type: ignore[assignment]
for _switch in Callback._switches:
    setattr(Callback, _switch, _Switch(_switch))
for _attribute in LEARNER_ATTRIBUTES:
    setattr(Callback, _attribute, _LearnerAttribute(_attribute))


def kebab_case(class_name: str) -> str:
    """The name of a plugin whose class has this name.

    >>> kebab_case("EarlyStoppingCallback"), kebab_case("CSVLogger")
    ('early-stopping', 'csv-logger')
    """
    stem = re.sub(r"Callback$", "", class_name) or class_name
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", stem)
    return spaced.replace("_", "-").strip("-").lower()


def _settle_name(cls: type[Callback]) -> None:
    if "name" in vars(cls):
        cls._name_is_declared = True
    elif not cls._name_is_declared:
        cls.name = kebab_case(cls.__name__)


def _settle_switches(cls: type[Callback]) -> None:
    declared = {name: vars(cls)[name] for name in cls._switches if name in vars(cls)}
    for name in declared:
        delattr(cls, name)
    cls._switches = {**cls._switches, **declared}


def _check_declarations(cls: type[Callback]) -> None:
    if cls.role not in ROLES:
        known = ", ".join(f'"{role}"' for role in ROLES)
        message = f'{cls.__name__}: role must be one of {known}, got "{cls.role}".'
        raise ActivationError(message + suggestion(str(cls.role), ROLES))
    if cls.ranks not in (None, *RANKS):
        known = " or ".join(f'"{ranks}"' for ranks in RANKS)
        message = f'{cls.__name__}: ranks must be {known}, got "{cls.ranks}".'
        raise ActivationError(message + suggestion(str(cls.ranks), RANKS))
    if cls.ranks == "main" and cls.role == "modify":
        raise ActivationError(
            f'{cls.__name__}: ranks = "main" would change training in one of several '
            "processes alone, and they would drift apart. Leave it out, or declare "
            'role = "observe" where it changes nothing.'
        )
    if isinstance(cls.stages, str):
        cls.stages = (cls.stages,)


def ranks_of(plugin: object, role: str) -> Ranks:
    """In which of several processes a plugin runs: as it declares, else by its role.

    An observer runs on main, since what it writes is wanted once. Whatever changes or
    controls training runs on all, since the processes must stay alike.
    """
    declared: Ranks | None = getattr(plugin, "ranks", None)
    return declared or ("main" if role == "observe" else "all")


def _check_method(cls: type[Callback], name: str, method: Callable[..., Any]) -> None:
    options = getattr(method, f"{PROJECT}_impl", None) or {}
    event_name = options.get("specname") or name
    if event_name not in EVENTS:
        is_marked = bool(options) and not options.get("optionalhook")
        if is_marked or (not options and name.startswith(EVENT_PREFIXES)):
            raise UnknownEventError(unknown_event(cls.__name__, event_name))
    elif inspect.isfunction(method):
        check_signature(f"{cls.__name__}.{name}", method, event_name, skip_first=True)


def _refuse_what_is_no_method(cls: type[Callback], name: str, value: object) -> None:
    if not isinstance(value, classmethod):
        raise HookSignatureError(
            f"{cls.__name__}.{name} is a {type(value).__name__} and no method, so "
            f"{name} would never call it. Write `def {name}(self):`, or give what it "
            "holds another name."
        )


def unknown_event(owner: str, name: str) -> str:
    """The message for a method or hookimpl that is named like no event."""
    return (
        f"{owner}.{name}: there is no event {name!r}.{suggestion(name, EVENTS)} "
        "`callboard events` lists them; a helper of your own that looks like an event "
        "needs a leading underscore."
    )


def check_signature(
    where: str, function: Callable[..., Any], event_name: str, *, skip_first: bool
) -> None:
    """Check that a hookimpl asks for nothing that its event does not pass.

    Raises:
        HookSignatureError: It does, or it gives one of these a default, which pluggy
            below 1.7 would pass instead of the value.
    """
    offered = EVENTS[event_name].parameters
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD]
    named = [p for p in parameters if p.kind == p.KEYWORD_ONLY]
    for parameter in named:
        raise HookSignatureError(
            f"{where} takes {parameter.name!r} by keyword only; events are given by "
            "position: write it without the `*`."
        )
    for parameter in positional[1 if skip_first else 0 :]:
        if parameter.name not in offered:
            has = " and ".join(repr(name) for name in offered)
            raise HookSignatureError(
                f"{where} asks for {parameter.name!r}, which {event_name} does not "
                f"pass. It may ask for {has}, or for nothing."
                + suggestion(parameter.name, offered)
            )
        if parameter.default is not parameter.empty:
            raise HookSignatureError(
                f"{where} gives {parameter.name!r} a default; write it without one, or "
                "leave it out."
            )
