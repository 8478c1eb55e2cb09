"""A function that is called with what goes into a module and what comes out.

with hook_output(model[0]) as hook:
    model(x)
hook.stored.shape
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

from torch import Tensor, nn

HookFunction = Callable[[nn.Module, Any, Any], Any]


class Hook:
    """Calls a function whenever a module was called, and keeps what it returns.

    Used in a ``with`` statement it takes itself off at the end.

    Args:
        m: Module to look at.
        hook_func: Takes the module, its inputs and its output; for a backward hook the
            gradients of the inputs and those of the outputs. What it returns is kept
            and changes nothing.
        is_forward: Look at the forward pass; else at the backward pass.
        detach: Take tensors out of the graph first.
        cpu: Copy them to the CPU first; on a GPU that waits for it.

    Attributes:
        stored: What the function returned last, or None.
        removed: Whether the hook was taken off.
    """

    def __init__(
        self,
        m: nn.Module,
        hook_func: HookFunction,
        is_forward: bool = True,
        detach: bool = True,
        cpu: bool = False,
    ) -> None:
        self.hook_func, self.detach, self.cpu = hook_func, detach, cpu
        self.stored: Any = None
        self.removed = False
        register = m.register_forward_hook if is_forward else None
        self._handle = (register or m.register_full_backward_hook)(self.hook_fn)

    def hook_fn(self, module: nn.Module, input: Any, output: Any) -> None:
        """What torch calls."""
        if self.detach:
            input, output = (
                detached(input, cpu=self.cpu),
                detached(output, cpu=self.cpu),
            )
        self.stored = self.hook_func(module, input, output)

    def remove(self) -> None:
        """Take the hook off; a second time it does nothing."""
        if not self.removed:
            self._handle.remove()
            self.removed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


class Hooks:
    """One hook on each of several modules; see ``Hook``.

    Args:
        ms: Modules to look at.
        hook_func: As for ``Hook``.
        is_forward: As for ``Hook``.
        detach: As for ``Hook``.
        cpu: As for ``Hook``.
    """

    def __init__(
        self,
        ms: Iterable[nn.Module],
        hook_func: HookFunction,
        is_forward: bool = True,
        detach: bool = True,
        cpu: bool = False,
    ) -> None:
        self.hooks: list[Hook] = []
        try:
            for module in ms:
                self.hooks.append(Hook(module, hook_func, is_forward, detach, cpu))
        except BaseException:
            self.remove()
            raise

    @property
    def stored(self) -> list[Any]:
        """What each hook keeps."""
        return [hook.stored for hook in self.hooks]

    def remove(self) -> None:
        """Take all hooks off."""
        for hook in self.hooks:
            hook.remove()

    def __getitem__(self, index: int) -> Hook:
        return self.hooks[index]

    def __len__(self) -> int:
        return len(self.hooks)

    def __iter__(self) -> Iterator[Hook]:
        return iter(self.hooks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def hook_output(
    module: nn.Module, detach: bool = True, cpu: bool = False, grad: bool = False
) -> Hook:
    """A hook that keeps the output of a module, or the gradients of its outputs."""
    return Hook(module, _output, not grad, detach, cpu)


def hook_outputs(
    modules: Iterable[nn.Module],
    detach: bool = True,
    cpu: bool = False,
    grad: bool = False,
) -> Hooks:
    """Hooks that keep the outputs of modules, or the gradients of their outputs."""
    return Hooks(modules, _output, not grad, detach, cpu)


def _output(module: nn.Module, input: Any, output: Any) -> Any:
    return output


def detached(data: Any, *, cpu: bool = False) -> Any:
    """The tensors in tuples, lists and mappings without a graph; the rest as it is."""
    if isinstance(data, Tensor):
        return data.detach().cpu() if cpu else data.detach()
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(detached(part, cpu=cpu) for part in data))
    if isinstance(data, tuple | list):
        return type(data)(detached(part, cpu=cpu) for part in data)
    if isinstance(data, Mapping):
        return {key: detached(part, cpu=cpu) for key, part in data.items()}
    return data


def has_params(m: nn.Module) -> bool:
    """Whether a module, or one inside it, has a parameter."""
    return next(m.parameters(), None) is not None


def total_params(m: nn.Module) -> tuple[int, bool]:
    """Number of a module's parameters, and whether any of them is trained."""
    parameters = list(m.parameters())
    return sum(p.numel() for p in parameters), any(p.requires_grad for p in parameters)


def layers_of(
    model: nn.Module, *, include_paramless: bool = False
) -> dict[str, nn.Module]:
    """The layers of a model by name: modules with parameters of their own.

    Args:
        model: Where to look.
        include_paramless: Also modules without parameters that hold no other module.
    """

    def is_layer(module: nn.Module) -> bool:
        if next(module.parameters(recurse=False), None) is not None:
            return True
        return include_paramless and next(module.children(), None) is None

    return {name: m for name, m in model.named_modules() if is_layer(m)}
