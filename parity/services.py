"""Callbacks that log to a service, into stand-ins that keep what they are given."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest import mock

from callboard_azure_ml import AzureMLCallback
from callboard_comet import CometCallback
from callboard_wandb import WandbCallback
from parity.cases import case, difference
from parity.problems import MOMENTUM, OWN_MOMENTUM, Problem

Logged = dict[str, list[float]]


class Run:
    """Keeps numbers by name, as runs of Azure Machine Learning do."""

    id, parent = "run", None

    def __init__(self) -> None:
        self.logged: Logged = {}

    def log(self, name: str, value: Any) -> None:
        self.logged.setdefault(name, []).append(value)

    def set_tags(self, tags: Any) -> None:
        """Settings are logged in ways of their own."""

    def flush(self) -> None:
        """Everything is here already."""


def modules(**contents: Any) -> Any:
    """Let these modules stand in for clients that are not installed."""
    made = {}
    for path, names in contents.items():
        module = types.ModuleType(path.replace("__", "."))
        module.__spec__ = ModuleSpec(module.__name__, None)
        vars(module).update(names)
        made[module.__name__] = module
    return mock.patch.dict(sys.modules, made)


def only(logged: Logged, names: list[str]) -> Logged:
    return {name: logged[name] for name in names}


@case("AzureMLCallback", "loss and rate of every step, results of every epoch")
def azure_ml(folder: Path) -> float:
    clients = {
        "azureml": {},
        "azureml__core": {},
        "azureml__core__run": {"Run": Run},
        "azureml__exceptions": {"RunEnvironmentException": Exception},
    }
    ours, theirs = Run(), Run()
    problem = Problem(opt_func=MOMENTUM, fastai_opt_func=OWN_MOMENTUM)
    problem.ours(AzureMLCallback(ours)).fit(3)
    with modules(**clients):
        from fastai.callback.azureml import AzureMLCallback as FastaiAzureML

        problem.theirs(FastaiAzureML(theirs)).fit(3)
    # Ours numbers the parameter groups; fastai logs all of them under one name.
    for name in ("lr", "mom"):
        logged = ours.logged.pop(f"batch__opt.hypers.{name}_0")
        ours.logged[f"batch__opt.hypers.{name}"] = logged
    names = ["batch__loss", "batch__opt.hypers.lr", "batch__opt.hypers.mom"]
    names += ["epoch__valid_loss", "epoch__mean_error"]
    return difference(only(ours.logged, names), only(theirs.logged, names))


class Experiment:
    """Keeps numbers by name, as experiments of Comet do."""

    alive = True

    def __init__(self, **options: Any) -> None:
        self.logged: Logged = {}

    def log_metric(self, name: str, value: Any) -> None:
        # fastai gives the loss itself.
        self.logged.setdefault(name, []).append(float(value))

    def log_metrics(self, numbers: Any, **where: Any) -> None:
        for name, value in numbers.items():
            self.log_metric(name, value)

    def get_key(self) -> str:
        return "experiment"

    def log_parameters(self, *settings: Any) -> None:
        """Settings and files are logged in ways of their own."""

    log_parameter = log_asset = log_text = log_parameters

    def end(self) -> None:
        """Everything is here already."""


@case("CometCallback", "losses and rates of every step, results of every epoch")
def comet(folder: Path) -> float:
    problem = Problem(opt_func=MOMENTUM, fastai_opt_func=OWN_MOMENTUM)
    with modules(comet_ml={"Experiment": Experiment}):
        from fastai.callback import comet as fastai_comet

        ours = Experiment()
        callback = CometCallback(experiment=ours, log_model_weights=False)
        problem.ours(callback).fit(3)
        with mock.patch.object(
            fastai_comet, "keep_experiment_running", False, create=True
        ):
            theirs = fastai_comet.CometCallback("project", log_model_weights=False)
        kept = Experiment()
        with mock.patch.object(fastai_comet.comet_ml, "Experiment", return_value=kept):
            problem.theirs(theirs).fit(3)
    # Ours numbers the parameter groups; fastai logs all of them under one name.
    for name in ("lr", "mom"):
        logged = ours.logged.pop(f"batch__opt.hypers.{name}_0")
        ours.logged[f"batch__opt.hypers.{name}"] = logged
    names = ["batch__loss", "batch__smooth_loss", "batch__opt.hypers.lr"]
    names += ["batch__opt.hypers.mom", "epoch__valid_loss", "epoch__mean_error"]
    return difference(only(ours.logged, names), only(kept.logged, names))


class Wandb(types.ModuleType):
    """Keeps numbers by name, as ``wandb.log`` does."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.run, self.logged = self, {}
        self.config, self.summary, self.step = mock.MagicMock(), {}, 0
        self.id, self.name, self.entity, self.project = "run", "run", "", ""

    def log(self, numbers: dict[str, Any], **options: Any) -> None:
        for name, value in numbers.items():
            self.logged.setdefault(name, []).append(value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return mock.MagicMock()


@contextmanager
def wandb() -> Iterator[Wandb]:
    client = Wandb()
    with mock.patch.dict(sys.modules, {"wandb": client}):
        yield client


@case("WandbCallback", "losses and rates of every step, results of every epoch")
def weights_and_biases(folder: Path) -> float:
    problem = Problem(opt_func=MOMENTUM, fastai_opt_func=OWN_MOMENTUM)
    with wandb() as ours:
        problem.ours(WandbCallback(log_preds=False)).fit(3)
    with wandb() as theirs:
        from fastai.callback.wandb import WandbCallback as FastaiWandb

        learn = problem.theirs(FastaiWandb(log_preds=False))
        # Reads settings out of a data block, which there is none of here.
        learn.gather_args = dict
        learn.fit(3)
    names = ["train_loss", "raw_loss", "lr_0", "mom_0", "valid_loss", "mean_error"]
    return difference(only(ours.logged, names), only(theirs.logged, names))
