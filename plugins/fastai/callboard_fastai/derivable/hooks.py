"""Hooks on the modules of a model, and callbacks that put them there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from fastcore.foundation import L
from fastcore.meta import funcs_kwargs
from torch import Tensor, nn

from callboard_fastai.callback.core import Callback
from callboard_fastai.layers import flatten_model, in_channels
from callboard_fastai.predefined import Predefined
from callboard_fastai.torch_core import one_param, to_detach

HookFunction = Callable[[nn.Module, Any, Any], Any]


class Hook:
    """A function that is called with input and output of one module.

    Args:
        m: The module.
        hook_func: Takes module, input and output; what it returns is kept.
        is_forward: At the forward pass, else at the backward pass.
        detach: Give tensors without gradients.
        cpu: Give tensors on the CPU.
        gather: Give tensors of all processes.

    Attributes:
        stored: What the function returned last.
        removed: Whether the hook is gone.
    """

    def __init__(
        self,
        m: nn.Module,
        hook_func: HookFunction,
        is_forward: bool = True,
        detach: bool = True,
        cpu: bool = False,
        gather: bool = False,
    ) -> None:
        self.hook_func, self.detach, self.cpu, self.gather = (
            *(hook_func, detach, cpu, gather),
        )
        register: Any = m.register_forward_hook
        if not is_forward:
            register = m.register_full_backward_hook
        self.stored: Any = None
        self.removed = False
        self.hook = register(self.hook_fn)

    def hook_fn(self, module: nn.Module, input: Any, output: Any) -> None:
        """What the module calls."""
        if self.detach:
            input = to_detach(input, cpu=self.cpu, gather=self.gather)
            output = to_detach(output, cpu=self.cpu, gather=self.gather)
        self.stored = self.hook_func(module, input, output)

    def remove(self) -> None:
        """Take the hook off the module."""
        if not self.removed:
            self.hook.remove()
            self.removed = True

    def __enter__(self) -> Hook:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


class Hooks:
    """One ``Hook`` for each of several modules.

    Args:
        ms: The modules.
        hook_func: As for ``Hook``, like the rest.
    """

    def __init__(
        self,
        ms: Any,
        hook_func: HookFunction,
        is_forward: bool = True,
        detach: bool = True,
        cpu: bool = False,
    ) -> None:
        self.hooks = [Hook(m, hook_func, is_forward, detach, cpu) for m in ms]

    def __getitem__(self, i: int) -> Hook:
        return self.hooks[i]

    def __len__(self) -> int:
        return len(self.hooks)

    def __iter__(self) -> Iterator[Hook]:
        return iter(self.hooks)

    @property
    def stored(self) -> Any:
        """What each of them keeps."""
        return L(hook.stored for hook in self)

    def remove(self) -> None:
        """Take all of them off their modules."""
        for hook in self.hooks:
            hook.remove()

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def _output(module: nn.Module, input: Any, output: Any) -> Any:
    return output if isinstance(output, Tensor | tuple | list | L) else list(output)


def hook_output(
    module: nn.Module, detach: bool = True, cpu: bool = False, grad: bool = False
) -> Hook:
    """A hook that keeps what a module gives, or the gradient of that."""
    return Hook(module, _output, detach=detach, cpu=cpu, is_forward=not grad)


def hook_outputs(
    modules: Any, detach: bool = True, cpu: bool = False, grad: bool = False
) -> Hooks:
    """Hooks that keep what modules give, or the gradients of that."""
    return Hooks(modules, _output, detach=detach, cpu=cpu, is_forward=not grad)


def dummy_eval(m: nn.Module, size: tuple[int, int] = (64, 64)) -> Any:
    """What a model gives for a picture of random numbers."""
    picture = one_param(m).new_empty(1, in_channels(m), *size).uniform_(-1.0, 1.0)
    with torch.no_grad():
        return m.eval()(picture)


def model_sizes(m: nn.Module, size: tuple[int, int] = (64, 64)) -> list[torch.Size]:
    """The shapes of what the children of a model give for a picture of this size."""
    with hook_outputs(m.children()) as hooks:
        dummy_eval(m, size)
        return [hook.stored.shape for hook in hooks]


def num_features_model(m: nn.Module) -> int:
    """The number of channels that a model ends with."""
    size = 32
    while True:
        try:
            return int(model_sizes(m, (size, size))[-1][1])
        except RuntimeError:
            size *= 2
            if size > 2048:
                raise


def has_params(m: nn.Module) -> bool:
    """Whether a module has a parameter."""
    return next(m.parameters(), None) is not None


def total_params(m: nn.Module) -> tuple[int, bool]:
    """The number of parameters, and whether the first of them takes gradients."""
    found = list(m.parameters())
    return sum(p.numel() for p in found), bool(found) and found[0].requires_grad


@funcs_kwargs
class HookCallback(Callback, metaclass=Predefined, plugin="HookCallback"):
    """Puts hooks on modules for the time of a fit; ``hook`` is what they call.

    Args:
        modules: The modules. Default: all that hold no other and have parameters.
        every: Put them there for one batch in so many only.
        remove_end: Take them off at the end.
        is_forward: At the forward pass, else at the backward pass.
        detach: Give tensors without gradients.
        cpu: Give tensors on the CPU.
        include_paramless: Take modules without parameters too.
        kwargs: ``hook``, as a function.
    """

    _methods = ("hook",)

    def __init__(
        self,
        modules: Any = None,
        every: int | None = None,
        remove_end: bool = True,
        is_forward: bool = True,
        detach: bool = True,
        cpu: bool = True,
        include_paramless: bool = False,
        **kwargs: Any,
    ) -> None:
        assert not kwargs, f"Passed unknown functions: {kwargs}"
        self.__dict__["modules"] = modules  # a name that models have too
        self.every, self.remove_end, self.is_forward = every, remove_end, is_forward
        self.detach, self.cpu = detach, cpu
        self.include_paramless = include_paramless

    def hook(self, m: nn.Module, i: Any, o: Any) -> Any:
        """Called with module, input and output; what it returns is kept."""
        return m

    def before_fit(self) -> None:
        """Find the modules and put hooks there."""
        if self.modules is None:
            leaves = flatten_model(self.model)
            chosen = [m for m in leaves if self.include_paramless or has_params(m)]
            self.__dict__["modules"] = chosen
        if self.every is None:
            self._register()

    def before_batch(self) -> None:
        """Put hooks there where it is this batch's turn."""
        if self._is_turn():
            self._register()

    def after_batch(self) -> None:
        """Take hooks off that were for one batch."""
        if self._is_turn():
            self._remove()

    def _is_turn(self) -> bool:
        return bool(
            self.every is not None
            and self.training
            and not self.train_iter % self.every
        )

    def after_fit(self) -> None:
        """Take the hooks off."""
        if self.remove_end:
            self._remove()

    def _register(self) -> None:
        self.hooks = Hooks(
            self.modules, self.hook, self.is_forward, self.detach, self.cpu
        )

    def _remove(self) -> None:
        hooks = vars(self).get("hooks")
        if hooks is not None:
            hooks.remove()

    def __del__(self) -> None:
        self._remove()


class ActivationStats(HookCallback, metaclass=Predefined, plugin="ActivationStats"):
    """Records mean, deviation and share of near zeros of what modules give.

    Args:
        with_hist: Record histograms too.
        kwargs: As for ``HookCallback``.
    """

    order = -20

    def __init__(self, with_hist: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.with_hist = with_hist

    def before_fit(self) -> None:
        """Record anew."""
        super().before_fit()
        self.stats = L()

    def hook(self, m: Any, i: Any, o: Any) -> Any:
        """Numbers of one tensor, or of each in nested tuples."""
        if isinstance(o, tuple):
            return [n for part in o for n in L(self.hook(m, i, part), use_list=None)]
        if not isinstance(o, Tensor):
            return []
        o = o.float()
        numbers = {
            "mean": o.mean().item(),
            "std": o.std().item(),
            "near_zero": (o <= 0.05).float().mean().item(),
        }
        return {**numbers, "hist": o.histc(40, 0, 10)} if self.with_hist else numbers

    def after_batch(self) -> None:
        """Keep the numbers of the batch."""
        if self.training and (self.every is None or self._is_turn()):
            self.stats.append(self.hooks.stored)
        super().after_batch()

    def layer_stats(self, idx: int) -> Any:
        """Means, deviations and shares of near zeros of one module, by step."""
        steps = self.stats.itemgot(idx)
        return L(steps.itemgot(name) for name in ("mean", "std", "near_zero"))

    def hist(self, idx: int) -> Tensor:
        """The logarithms of the histograms of one module, one column a step."""
        columns = self.stats.itemgot(idx).itemgot("hist")
        return torch.stack(tuple(columns)).t().float().log1p()
