"""What the tests of this plugin share."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from callboard import Learner

HERE = Path(__file__).parent


def load_cases():
    """The module beside this one, which runs under fastai too."""
    spec = importlib.util.spec_from_file_location("fastai_cases", HERE / "cases.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cases():
    """The small callbacks that were run under fastai."""
    return load_cases()


@pytest.fixture(scope="session")
def oracle():
    """What fastai 2.8.12 did with them."""
    return json.loads((HERE / "oracle.json").read_text())


@pytest.fixture
def fit(cases, tmp_path):
    """Make a Learner of Callboard's with callbacks, and fit it."""

    def fit(*cbs, num_epochs=1, model=None, loss_func=None, data=None, **options):
        torch.manual_seed(0)
        learner = Learner(
            cases.loaders() if data is None else data,
            model or nn.Linear(2, 1),
            loss_func or nn.MSELoss(),
            torch.optim.SGD,
            options.pop("lr", 0.1),
            cbs=[*cbs],
            device="cpu",
            path=tmp_path,
            **options,
        )
        if num_epochs:
            learner.fit(num_epochs)
        return learner

    return fit
