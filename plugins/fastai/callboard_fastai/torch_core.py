"""The small tensor helpers of ``fastai.torch_core`` that callbacks use.

What fastai takes from fastcore comes from fastcore here too; only what needs torch is
written down in this module.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from numbers import Number
from typing import Any

import numpy as np
import torch
from fastcore.basics import listify
from fastcore.foundation import L
from fastcore.meta import PrePostInitMeta
from fastcore.xtras import is_listy
from torch import Tensor, nn

from callboard_fastai.exports import exporting

norm_types = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
)


# ---- tensors of a kind --------------------------------------------------------


class TensorBase(Tensor):
    """A tensor that may carry attributes; results keep its class."""

    def __new__(cls, x: Any, **attributes: Any) -> Any:
        made = tensor(x).as_subclass(cls)
        made.__dict__.update(attributes)
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain = self.as_subclass(Tensor)
        return _rebuilt, (type(self), plain, self.requires_grad, dict(self.__dict__))

    @classmethod
    def _before_cast(cls, x: Any) -> Tensor:
        return tensor(x)


def _rebuilt(
    cls: type[TensorBase], plain: Tensor, needs_grad: bool, attributes: dict[str, Any]
) -> Tensor:
    made: Tensor = cls(plain.detach(), **attributes)
    return made.requires_grad_(needs_grad)


class TensorImageBase(TensorBase):
    """A picture, or a batch of them."""


class TensorImage(TensorImageBase):
    """A picture in colour."""


class TensorImageBW(TensorImage):
    """A picture in shades of grey."""


class TensorMask(TensorImageBase):
    """A class for every pixel."""


class TensorFlowField(TensorBase):
    """Where every pixel is taken from."""


class TensorCategory(TensorBase):
    """A class for every item."""


class TensorMultiCategory(TensorCategory):
    """Several classes for every item."""


class TitledTensorScalar(TensorBase):
    """A number for every item."""


def tensor(x: Any, *rest: Any, **options: Any) -> Tensor:
    """A tensor of numbers, sequences or arrays; float64 becomes float32.

    Several arguments are the elements of one vector.
    """
    if rest:
        x = (x, *rest)
    if isinstance(x, Tensor):
        made = x
    elif isinstance(x, tuple | list | Number):
        made = torch.tensor(x, **options)
    else:
        made = torch.as_tensor(np.asarray(getattr(x, "values", x)).copy(), **options)
    return made.float() if made.dtype is torch.float64 else made


# ---- through tuples, lists and dicts ------------------------------------------


def apply(func: Callable[..., Any], x: Any, *args: Any, **options: Any) -> Any:
    """Apply a function to every part of nested tuples, lists and mappings."""
    if is_listy(x):
        return type(x)([apply(func, part, *args, **options) for part in x])
    if isinstance(x, Mapping):
        return {key: apply(func, part, *args, **options) for key, part in x.items()}
    result = func(x, *args, **options)
    is_kept = isinstance(x, TensorBase) and type(result) is Tensor
    return result.as_subclass(type(x)) if is_kept else result


def maybe_gather(x: Tensor, axis: int = 0) -> Tensor:
    """The tensors of all processes joined, where several train together."""
    if num_distrib() <= 1:
        return x
    whole = x.contiguous() if x.ndim else x[None]
    parts = [torch.zeros_like(whole) for _ in range(num_distrib())]
    torch.distributed.all_gather(parts, whole)
    joined = torch.cat(parts, dim=axis)
    return joined if x.ndim else joined.mean()


def to_detach(b: Any, cpu: bool = True, gather: bool = True) -> Any:
    """The same without gradients, and on the CPU unless told otherwise."""

    def detached(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = x.detach()
        if gather:
            x = maybe_gather(x)
        return x.cpu() if cpu else x

    return apply(detached, b)


def to_half(b: Any) -> Any:
    """Floating point tensors as float16."""
    return apply(lambda x: x.half() if _is_float(x) else x, b)


def to_float(b: Any) -> Any:
    """Floating point tensors as float32."""
    return apply(lambda x: x.float() if _is_float(x) else x, b)


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and torch.is_floating_point(x)


def default_device(use: Any = -1) -> torch.device:
    """A GPU where there is one and ``use`` is not False, else the CPU."""
    if use is not False and use != 0:
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        if torch.backends.mps.is_available():
            return torch.device("mps", 0)
        if use is True:
            warnings.warn("There is no GPU: the CPU is used.", stacklevel=2)
    return torch.device("cpu")


def to_device(b: Any, device: Any = None, non_blocking: bool = False) -> Any:
    """Every tensor on a device; by default on the one of ``default_device``."""
    device = default_device() if device is None else device

    def moved(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.to(device, non_blocking=non_blocking)
        return x

    return apply(moved, b)


def to_cpu(b: Any) -> Any:
    """Every tensor on the CPU."""
    return to_device(b, "cpu")


def to_np(x: Any) -> Any:
    """Every tensor as a numpy array."""
    return apply(lambda part: part.detach().cpu().numpy(), x)


def to_concat(xs: Any, dim: int = 0) -> Any:
    """Batches joined, part by part; a list of items where they do not fit together."""
    if not xs:
        return xs
    first_one = xs[0]
    if is_listy(first_one):
        columns = [[x[i] for x in xs] for i in range(len(first_one))]
        return type(first_one)([to_concat(column, dim=dim) for column in columns])
    if isinstance(first_one, Mapping):
        return {key: to_concat([x[key] for x in xs], dim=dim) for key in first_one}
    try:
        joined = torch.cat(list(xs), dim=dim)
    except (IndexError, RuntimeError, TypeError):
        return L(item for x in xs for item in x)
    is_kept = isinstance(first_one, TensorBase)
    return joined.as_subclass(type(first_one)) if is_kept else joined


def item_find(x: Any, idx: Any = 0) -> Any:
    """The first tensor (or that at a place) of nested tuples, lists and mappings."""
    if is_listy(x):
        return item_find(x[idx])
    if isinstance(x, Mapping):
        return item_find(x[list(x)[idx] if isinstance(idx, int) else idx])
    return x


def find_device(b: Any) -> torch.device:
    """The device of a batch."""
    device: torch.device = item_find(b).device
    return device


def find_bs(b: Any) -> int:
    """The number of items in a batch."""
    found = item_find(b)
    return int(found.shape[0]) if hasattr(found, "shape") else len(b)


def nested_reorder(t: Any, idxs: Any) -> Any:
    """Everything in the order of ``idxs``."""
    if t is None or isinstance(t, Tensor | L):
        return None if t is None else t[idxs]
    if is_listy(t):
        return type(t)([nested_reorder(part, idxs) for part in t])
    raise TypeError(f"Expected tensor, tuple, list or L but got {type(t)}")


def concat(*ls: Any) -> Any:
    """Tensors, arrays or sequences one after another."""
    if not ls:
        return []
    first_one = ls[0]
    if isinstance(first_one, Tensor):
        return torch.cat(ls)
    if isinstance(first_one, np.ndarray):
        return np.concatenate(ls)
    joined = [item for part in ls for item in listify(part)]
    return type(first_one)(joined) if isinstance(first_one, tuple | L) else joined


# ---- single tensors -----------------------------------------------------------


def unsqueeze(x: Tensor, dim: int = -1, n: int = 1) -> Tensor:
    """``n`` new dimensions of size 1."""
    for _ in range(n):
        x = x.unsqueeze(dim)
    return x


def unsqueeze_(x: Tensor, dim: int = -1, n: int = 1) -> Tensor:
    """As ``unsqueeze``, in place."""
    for _ in range(n):
        x.unsqueeze_(dim)
    return x


def logit(x: Tensor) -> Tensor:
    """The inverse of the sigmoid."""
    return torch.logit(x, eps=1e-7)


def one_hot(x: Any, c: int) -> Tensor:
    """Ones at the indices ``x``, zeros elsewhere."""
    made = torch.zeros(c, dtype=torch.uint8)
    if len(x) if is_listy(x) else True:
        made[L(x, use_list=None)] = 1
    return made


def flatten_check(inp: Tensor, targ: Tensor) -> tuple[Tensor, Tensor]:
    """Both as vectors of the same length."""
    inp, targ = inp.contiguous().view(-1), targ.contiguous().view(-1)
    assert len(inp) == len(targ), f"==:\n{len(inp)}\n{len(targ)}"
    return inp, targ


def np_func(f: Callable[..., Any]) -> Callable[..., Tensor]:
    """A function of arrays as one of tensors."""

    @wraps(f)
    def of_tensors(*args: Any, **options: Any) -> Tensor:
        arrays = [to_np(a) if isinstance(a, Tensor) else a for a in args]
        return tensor(f(*arrays, **options))

    return of_tensors


def batch_to_samples(b: Any, max_n: int = 10) -> Any:
    """A batch as a list of its first items."""
    if isinstance(b, Tensor):
        return list(b[:max_n])
    return L(zip(*(batch_to_samples(part, max_n) for part in b), strict=False))


# ---- modules ------------------------------------------------------------------


class Module(nn.Module, metaclass=PrePostInitMeta):  # type: ignore[metaclass]
    """A ``nn.Module`` whose ``__init__`` need not call that of its base."""

    def __pre_init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __init__(self) -> None:
        pass


def one_param(m: nn.Module) -> nn.Parameter:
    """The first parameter of a module."""
    return next(m.parameters())


def get_model(model: nn.Module) -> nn.Module:
    """The model inside a wrapper for several devices."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, wrappers) else model


def params(m: nn.Module) -> list[nn.Parameter]:
    """All parameters of a module."""
    return list(m.parameters())


def trainable_params(m: nn.Module) -> Any:
    """All parameters of a module that take gradients."""
    return L(p for p in m.parameters() if p.requires_grad)


def norm_bias_params(m: nn.Module, with_bias: bool = True) -> Any:
    """The parameters of normalisation layers, and all biases."""
    if isinstance(m, norm_types):
        return L(m.parameters())
    found = L(p for child in m.children() for p in norm_bias_params(child, with_bias))
    if with_bias and getattr(m, "bias", None) is not None:
        found.append(m.bias)
    return found


def requires_grad(m: nn.Module) -> bool:
    """Whether the first parameter of a module takes gradients."""
    return any(p.requires_grad for p in list(m.parameters())[:1])


def init_default(m: Any, func: Any = nn.init.kaiming_normal_) -> Any:
    """Fill the weight of a module by ``func`` and its bias with zeros, in place."""
    if func:
        if hasattr(m, "weight"):
            func(m.weight)
        if hasattr(getattr(m, "bias", None), "data"):
            m.bias.data.fill_(0.0)
    return m


def cond_init(m: nn.Module, func: Callable[..., Any]) -> None:
    """``init_default`` for what is no normalisation layer and is trained."""
    if not isinstance(m, norm_types) and requires_grad(m):
        init_default(m, func)


def apply_leaf(m: nn.Module, f: Callable[..., Any]) -> None:
    """Apply a function to a module and all modules in it."""
    for module in m.modules():
        f(module)


def apply_init(m: nn.Module, func: Any = nn.init.kaiming_normal_) -> None:
    """Fill the weights of a module and of all in it, normalisation layers left out."""
    apply_leaf(m, lambda module: cond_init(module, func))


# ---- the process --------------------------------------------------------------


def num_distrib() -> int:
    """The number of processes that train together, 0 for one alone."""
    return int(os.environ.get("WORLD_SIZE", 0))


def rank_distrib() -> int:
    """The number of this process among those that train together."""
    return int(os.environ.get("RANK", 0))


def distrib_barrier() -> None:
    """Wait for the other processes."""
    if num_distrib() > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()


def set_seed(s: int, reproducible: bool = False) -> None:
    """Seed the random numbers of torch, numpy and Python."""
    torch.manual_seed(s)
    np.random.seed(s % (2**32 - 1))
    random.seed(s)
    if reproducible:
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def get_random_states() -> dict[str, Any]:
    """The state of the random numbers of torch, numpy and Python."""
    has_cuda = torch.cuda.is_available()
    return {
        "random_state": random.getstate(),
        "numpy_state": np.random.get_state(),
        "torch_state": torch.get_rng_state(),
        "torch_cuda_state": torch.cuda.get_rng_state_all() if has_cuda else [],
        "torch_deterministic": torch.backends.cudnn.deterministic,
        "torch_benchmark": torch.backends.cudnn.benchmark,
    }


def set_random_states(
    random_state: Any,
    numpy_state: Any,
    torch_state: Tensor,
    torch_cuda_state: Sequence[Tensor],
    torch_deterministic: bool,
    torch_benchmark: bool,
) -> None:
    """Take back what ``get_random_states`` returned."""
    random.setstate(random_state)
    np.random.set_state(numpy_state)
    torch.set_rng_state(torch_state)
    if torch_cuda_state:
        torch.cuda.set_rng_state_all(list(torch_cuda_state))
    torch.backends.cudnn.deterministic = torch_deterministic
    torch.backends.cudnn.benchmark = torch_benchmark


@contextmanager
def no_random(seed: int = 42, reproducible: bool = True) -> Iterator[None]:
    """Random numbers from ``seed`` inside, and as before afterwards."""
    states = get_random_states()
    set_seed(seed, reproducible=reproducible)
    try:
        yield
    finally:
        set_random_states(**states)


def pv(text: str, verbose: bool) -> None:
    """Print a text where asked to."""
    if verbose:
        print(text)


def subplots(
    nrows: int = 1,
    ncols: int = 1,
    figsize: Any = None,
    imsize: float = 3,
    **kwargs: Any,
) -> Any:
    """A figure and its axes, always as an array."""
    from matplotlib import pyplot as plt

    size = (ncols * imsize, nrows * imsize) if figsize is None else figsize
    figure, axes = plt.subplots(nrows, ncols, figsize=size, **kwargs)
    return figure, axes if nrows * ncols > 1 else np.array([axes])


def ismin_torch(min_version: str) -> bool:
    """Whether torch is of this version or a later one."""
    return _version(torch.__version__) >= _version(min_version)


def notmax_torch(max_version: str) -> bool:
    """Whether torch is of an earlier version than this."""
    return _version(torch.__version__) < _version(max_version)


def _version(text: str) -> tuple[int, ...]:
    numbers = [part for part in text.partition("+")[0].split(".")[:3] if part.isdigit()]
    padded = [*map(int, numbers), 0, 0, 0]
    return tuple(padded[:3])


__getattr__, __dir__ = exporting(__name__)
