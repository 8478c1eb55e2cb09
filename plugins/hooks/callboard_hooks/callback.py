"""Hooks on layers for as long as a fit lasts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from callboard import Callback, hookimpl
from callboard.errors import OptionError
from callboard_hooks.hook import HookFunction, Hooks, layers_of

Modules = nn.Module | Sequence[nn.Module]


class HookCallback(Callback):
    """Puts hooks on layers for as long as a fit lasts.

    What a hook does is said by ``hook``, or by the method ``hook`` of a subclass.

    Args:
        modules: Layers to look at. Default: all with parameters of their own.
        every: Look at every so many training batches only, the first one among them.
        remove_end: Take the hooks off when the fit is over, however it ends.
        is_forward: Look at the forward pass; else at the backward pass.
        detach: Take tensors out of the graph first.
        cpu: Copy all inputs and outputs to the CPU first, which waits for a GPU.
        include_paramless: By default also layers without parameters.
        hook: Takes the module, its inputs and its output; see ``Hook``.

    Attributes:
        hooks: The hooks, a ``Hooks``; None before the first fit.
        modules: The layers that are looked at.
        layer_names: Their names in the model.
    """

    name = "hooks"

    def __init__(
        self,
        modules: Modules | None = None,
        every: int | None = None,
        remove_end: bool = True,
        is_forward: bool = True,
        detach: bool = True,
        cpu: bool = False,
        include_paramless: bool = False,
        *,
        hook: HookFunction | None = None,
    ) -> None:
        if every is not None and (not isinstance(every, int) or every < 1):
            raise OptionError(
                f"{self.name}: every must be a number of batches from 1 on, or None, "
                f"got {every!r}. Use 10 to look at one batch in ten."
            )
        self.every, self.remove_end = every, remove_end
        self.is_forward, self.detach, self.cpu = is_forward, detach, cpu
        self.include_paramless = include_paramless
        self._given_modules = self._checked(modules)
        self.modules: list[nn.Module] = []
        self.layer_names: list[str] = []
        self.hooks: Hooks | None = None
        self._is_batch_hooked = False
        if hook is not None:
            self.hook = hook  # type: ignore[assignment, method-assign]
        elif type(self).hook is HookCallback.hook:
            raise OptionError(
                f"{self.name}: there is nothing to do for the hooks; give "
                "HookCallback(hook=function) a function of (module, input, output), "
                "or define the method `hook` in a subclass."
            )

    def _checked(self, modules: Any) -> list[nn.Module] | None:
        if modules is None:
            return None
        given = [modules] if isinstance(modules, nn.Module) else list(modules)
        for module in given:
            if not isinstance(module, nn.Module):
                raise OptionError(
                    f"{self.name}: modules must be modules of the model, as "
                    f"[model[0], model[2]], got {module!r}."
                )
        return given

    def hook(self, m: nn.Module, i: Any, o: Any) -> Any:
        """What is done with a layer's inputs and output; kept in the hook's ``stored``.

        A subclass defines it, unless the option ``hook`` is given.
        """
        raise NotImplementedError

    @hookimpl(wrapper=True)
    def do_fit(self) -> Iterator[None]:
        """Take hooks off at the end, also when this plugin has left in mid-fit."""
        try:
            return (yield)
        finally:
            if self.remove_end:
                self._unhook()

    def before_fit(self) -> None:
        """Find the layers, and put hooks on unless that is done batch by batch."""
        self._unhook()
        if self._given_modules is None:
            found = layers_of(
                self.learn.model, include_paramless=self.include_paramless
            )
            self.modules = list(found.values())
            model_name = type(self.learn.model).__name__
            self.layer_names = [name or model_name for name in found]
        else:
            self.modules = self._given_modules
            names = {id(m): name for name, m in self.learn.model.named_modules()}
            self.layer_names = [
                names.get(id(m)) or type(m).__name__ for m in self.modules
            ]
        if not self.modules:
            raise OptionError(
                f"{self.name}: {type(self.learn.model).__name__} has no layer to look "
                "at; give modules, or include_paramless=True."
            )
        if self.every is None:
            self._hook()

    def before_batch(self) -> None:
        """Put hooks on where this batch is one to look at."""
        # Remembered, since the count goes up before after_batch.
        self._is_batch_hooked = self._is_to_look()
        if self.every is not None and self._is_batch_hooked:
            self._hook()

    def after_batch(self) -> None:
        """Take off what was put on for this batch only."""
        if self.every is not None and self._is_batch_hooked:
            self._unhook()
        self._is_batch_hooked = False

    def teardown(self) -> None:
        """Take hooks off, however the fit ended."""
        if self.remove_end or self.every is not None:
            self._unhook()

    def _is_to_look(self) -> bool:
        learner = self.learn
        if self.every is None:
            return True
        return learner.training and learner.train_iter % self.every == 0

    def _hook(self) -> None:
        self._unhook()
        # Looked up at every call, since a subclass's method may be replaced.
        self.hooks = Hooks(
            self.modules, self._call_hook, self.is_forward, self.detach, self.cpu
        )

    def _call_hook(self, module: nn.Module, input: Any, output: Any) -> Any:
        return self.hook(module, input, output)

    def _unhook(self) -> None:
        if self.hooks is not None:
            self.hooks.remove()
