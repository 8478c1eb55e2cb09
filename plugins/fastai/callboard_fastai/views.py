"""What fastai callbacks see of an optimizer, of data, and of the active callbacks.

The objects behind are Callboard's and torch's: a view holds no state of its own, so
that whatever a callback changes is changed for every other plugin at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fastcore.foundation import L
from fasttransform import Pipeline
from torch import Tensor

from callboard.data import DataLoaders as NativeDataLoaders
from callboard.data import num_batches, to_device
from callboard.errors import OptionError
from callboard.optim import HYPERS, locate_hyper, spread

#: The names of torch's optimizers, and what fastai calls the same.
pytorch_hp_map = {
    "momentum": "mom",
    "weight_decay": "wd",
    "alpha": "sqr_mom",
    "betas__0": "mom",
    "betas__1": "sqr_mom",
}
#: Keys of parameter groups that appear under another name.
RENAMED_KEYS = {"params", "betas", "momentum", "weight_decay", "alpha"}


# ---- the optimizer ------------------------------------------------------------


class HyperView(MutableMapping[str, Any]):
    """The hyper-parameters of one parameter group, by fastai's names.

    A name that the optimizer does not know may be set all the same and is kept in the
    group.

    Args:
        opt: The optimizer.
        group: One of its parameter groups.
    """

    def __init__(self, opt: Any, group: dict[str, Any]) -> None:
        self._opt, self._group = opt, group

    def _place(self, name: str) -> tuple[str, int | None]:
        try:
            return locate_hyper(self._opt, name)
        except OptionError:
            return name, None

    def __getitem__(self, name: str) -> Any:
        key, place = self._place(name)
        value = self._group[key]
        return value if place is None else value[place]

    def __setitem__(self, name: str, value: Any) -> None:
        key, place = self._place(name)
        kept = self._group.get(key)
        if place is not None and isinstance(kept, tuple | list):
            self._group[key] = (*kept[:place], value, *kept[place + 1 :])
        elif isinstance(kept, Tensor) and not isinstance(value, Tensor):
            kept.fill_(value)  # capturable optimizers keep lr on the device
        else:
            self._group[key] = value

    def __delitem__(self, name: str) -> None:
        del self._group[self._place(name)[0]]

    def __iter__(self) -> Iterator[str]:
        for name, places in HYPERS.items():
            if any(key in self._group for key, _ in places):
                yield name
        for key in self._group:
            if key not in RENAMED_KEYS and key not in HYPERS:
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


class OptimizerView:
    """A torch optimizer with the surface of fastai's.

    Args:
        opt: The optimizer; what the view lacks is read from it.
    """

    def __init__(self, opt: torch.optim.Optimizer) -> None:
        vars(self).update(opt=opt, frozen_idx=0)

    def __getattr__(self, name: str) -> Any:
        if name == "opt":  # a copy in the making has none yet
            raise AttributeError(name)
        return getattr(self.opt, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("frozen_idx", "opt") or isinstance(
            getattr(type(self), name, None), property
        ):
            object.__setattr__(self, name, value)
        else:
            setattr(self.opt, name, value)

    def __repr__(self) -> str:
        return f"OptimizerView of {self.opt!r}"

    @property
    def hypers(self) -> Any:
        """The hyper-parameters of every group, writable."""
        return L(HyperView(self.opt, group) for group in self.opt.param_groups)

    @hypers.setter
    def hypers(self, hypers: Sequence[Mapping[str, Any]]) -> None:
        for mine, given in zip(self.hypers, hypers, strict=True):
            mine.update(given)

    @property
    def param_lists(self) -> Any:
        """The parameters of every group."""
        return L(L(group["params"]) for group in self.opt.param_groups)

    @param_lists.setter
    def param_lists(self, lists: Sequence[Any]) -> None:
        for group, params in zip(self.opt.param_groups, lists, strict=True):
            group["params"] = list(params)

    def all_params(self, n: Any = slice(None), with_grad: bool = False) -> Any:
        """(parameter, group, its state, hyper-parameters) of every parameter.

        Args:
            n: Which groups.
            with_grad: Only parameters that have a gradient.
        """
        lists, hypers = self.param_lists[n], self.hypers[n]
        if isinstance(n, int):
            lists, hypers = [lists], [hypers]
        return L(
            (p, group, self.opt.state[p], hyper)
            for group, hyper in zip(lists, hypers, strict=True)
            for p in group
            if not with_grad or p.grad is not None
        )

    def set_hypers(self, **kwargs: Any) -> None:
        """Set hyper-parameters by name, each as ``set_hyper``."""
        for name, value in kwargs.items():
            self.set_hyper(name, value)

    def set_hyper(self, k: str, v: Any) -> None:
        """Set a hyper-parameter: a value for all groups, one for each, or a slice."""
        hypers = self.hypers
        if isinstance(v, slice):
            v = spread(v, len(hypers))
        values = list(L(v, use_list=None))
        if len(values) == 1:
            values *= len(hypers)
        assert len(values) == len(hypers), (
            f"Trying to set {len(values)} values for {k} but there are {len(hypers)} "
            "parameter groups."
        )
        for hyper, value in zip(hypers, values, strict=True):
            hyper[k] = value.item() if hasattr(value, "item") else value

    def freeze_to(self, n: int) -> None:
        """Let the groups from number ``n`` on take gradients and no other."""
        lists = self.param_lists
        self.frozen_idx = n if n >= 0 else len(lists) + n
        for number, group in enumerate(lists):
            for p in group:
                p.requires_grad_(number >= self.frozen_idx)

    def freeze(self) -> None:
        """Let the last group alone take gradients."""
        assert len(self.param_lists) > 1
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Let all groups take gradients."""
        self.freeze_to(0)

    def clear_state(self) -> None:
        """Forget momenta and the like."""
        self.opt.state.clear()


def view_of_optimizer(opt: Any) -> Any:
    """A torch optimizer with fastai's surface; anything else as it is."""
    return OptimizerView(opt) if isinstance(opt, torch.optim.Optimizer) else opt


def viewed_optimizer(opt: Any) -> Any:
    """The optimizer behind a view."""
    return opt.opt if isinstance(opt, OptimizerView) else opt


class OptFunc:
    """What makes optimizers; those that callbacks make have fastai's surface too.

    Args:
        make: The Learner's ``opt_func``; what this lacks is read from it.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        parts = list(params)
        if parts and isinstance(parts[0], L | list | tuple):
            parts = [{"params": list(part)} for part in parts]
        if len(args) == 1 and "lr" not in kwargs:
            kwargs, args = {**kwargs, "lr": args[0]}, ()
        return view_of_optimizer(self.make(parts, *args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        if name == "make":
            raise AttributeError(name)
        return getattr(self.make, name)


# ---- data ---------------------------------------------------------------------


class LoaderView:
    """A loader with the surface of fastai's; its batches are on the device.

    Args:
        loader: A torch ``DataLoader`` or any iterable of batches; what the view lacks
            is read from it, and then from its dataset.
        device: Where batches go.
    """

    def __init__(self, loader: Any, device: torch.device) -> None:
        no_transforms = {
            name: Pipeline([])
            for name in ("after_item", "before_batch", "after_batch")
            if not hasattr(loader, name)
        }
        vars(self).update(loader=loader, device=device, **no_transforms)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            yield _as_tuple(to_device(batch, self.device))

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":
            raise AttributeError(name)
        try:
            return getattr(self.loader, name)
        except AttributeError:
            if name.startswith("__") or name == "dataset":
                raise
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "device":
            vars(self)["device"] = value
        else:
            setattr(self.loader, name, value)

    def __repr__(self) -> str:
        return f"LoaderView of {self.loader!r}"

    @property
    def bs(self) -> int | None:
        """Items in a batch."""
        size: int | None = getattr(self.loader, "batch_size", None)
        return size

    @property
    def n(self) -> int:
        """Items in the dataset."""
        return len(self.dataset)

    @property
    def n_inp(self) -> int:
        """How many elements of a batch go to the model."""
        return max(len(self.one_batch()) - 1, 1)

    def one_batch(self) -> Any:
        """The first batch."""
        if num_batches(self.loader) == 0:
            raise ValueError("This DataLoader does not contain any batches")
        return next(iter(self))

    def get_idxs(self) -> list[int]:
        """The items of the next pass, in their order."""
        sampler = getattr(self.loader, "sampler", None)
        return list(range(self.n)) if sampler is None else list(sampler)

    def new(self, dataset: Any = None, **options: Any) -> LoaderView:
        """A loader like this one, with some settings changed.

        Args:
            dataset: Other data.
            options: Settings of ``torch.utils.data.DataLoader``, or fastai's ``bs``.
        """
        options = {"batch_size": options.pop("bs", self.bs), **options}
        for name in ("get_idxs", "after_item", "before_batch", "after_batch"):
            options.pop(name, None)
        loader = torch.utils.data.DataLoader(
            self.dataset if dataset is None else dataset,
            collate_fn=getattr(self.loader, "collate_fn", None),
            num_workers=options.pop("num_workers", 0),
            **options,
        )
        return LoaderView(loader, self.device)


class DataLoadersView:
    """Data with the surface of fastai's; what it lacks is read from the training data.

    Args:
        dls: Callboard's pair of loaders.
        device: Where batches go.
    """

    def __init__(self, dls: NativeDataLoaders, device: torch.device) -> None:
        vars(self).update(dls=dls, device=device, views={})

    def __getattr__(self, name: str) -> Any:
        if name in ("dls", "views"):
            raise AttributeError(name)
        if hasattr(self.dls, name):
            return getattr(self.dls, name)
        return getattr(self.train, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "device":
            vars(self)["device"] = value
        elif isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        else:
            setattr(self.dls, name, value)

    def __repr__(self) -> str:
        return f"DataLoadersView of {self.dls!r}"

    def view(self, loader: Any) -> Any:
        """A loader with fastai's surface, always the same one for the same loader."""
        if loader is None or hasattr(loader, "one_batch"):
            return loader
        if id(loader) not in self.views:
            self.views[id(loader)] = LoaderView(loader, self.device)
        return self.views[id(loader)]

    @property
    def train(self) -> Any:
        """The training data."""
        return self.view(self.dls.train)

    @train.setter
    def train(self, loader: Any) -> None:
        self.dls.train = viewed_loader(loader)

    @property
    def valid(self) -> Any:
        """The validation data."""
        return self.view(self.dls.valid)

    @valid.setter
    def valid(self, loader: Any) -> None:
        self.dls.valid = viewed_loader(loader)

    @property
    def loaders(self) -> list[Any]:
        """The loaders."""
        return list(self)

    def __iter__(self) -> Iterator[Any]:
        return (self.view(loader) for loader in self.dls if loader is not None)

    def __getitem__(self, index: int) -> Any:
        return self.view(self.dls[index])

    def __len__(self) -> int:
        return len(self.dls)

    @property
    def train_ds(self) -> Any:
        """The items to train on."""
        return self.train.dataset

    @property
    def valid_ds(self) -> Any:
        """The items to validate on."""
        return self.valid.dataset

    @property
    def path(self) -> Path:
        """Where files of the data are."""
        return Path(getattr(self.dls, "path", "."))

    @path.setter
    def path(self, path: str | Path) -> None:
        self.dls.path = path

    @property
    def n_inp(self) -> int:
        """How many elements of a batch go to the model."""
        return int(self.dls.num_inputs or self.train.n_inp)

    @n_inp.setter
    def n_inp(self, count: int) -> None:
        self.dls.num_inputs = count

    @property
    def c(self) -> int:
        """The number of classes: as the data says, or that of its vocabulary."""
        for owner in (self.dls, self.train):
            if hasattr(owner, "c"):
                return int(owner.c)
        vocab = self.vocab
        nested = vocab[-1] if len(vocab) and isinstance(vocab[-1], list | L) else vocab
        return len(nested)

    def one_batch(self) -> Any:
        """The first batch of the training data."""
        return self.train.one_batch()

    def to(self, device: Any) -> DataLoadersView:
        """Let batches go to a device; returns itself."""
        self.device = torch.device(device)
        for view in self.views.values():
            view.device = self.device
        return self

    def cuda(self) -> DataLoadersView:
        """Let batches go to the GPU."""
        return self.to("cuda")

    def cpu(self) -> DataLoadersView:
        """Let batches go to the CPU."""
        return self.to("cpu")


def viewed_loader(loader: Any) -> Any:
    """The loader behind a view."""
    return loader.loader if isinstance(loader, LoaderView) else loader


def viewed_dls(dls: Any) -> Any:
    """The data behind a view."""
    return dls.dls if isinstance(dls, DataLoadersView) else dls


def _as_tuple(batch: Any) -> Any:
    is_pair = isinstance(batch, list | tuple)
    return tuple(batch) if is_pair else batch if isinstance(batch, dict) else (batch,)
