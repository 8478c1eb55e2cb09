"""Every module of fastai has its mirror, and every name comes from the right place."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import types

import pytest
import torch
from torch import nn

import callboard
import callboard_fastai
from callboard import discovery
from callboard_fastai import exports
from callboard_fastai.names import NAMES

OWN = {"adapter", "bars", "exports", "files", "front", "measuring", "names", "orders"}
OWN |= {"predefined", "recording", "stepping", "views", "derivable"}
MODULES = [
    found.name
    for found in pkgutil.walk_packages(callboard_fastai.__path__, "callboard_fastai.")
    if found.name.split(".")[1] not in OWN and not found.ispkg
]


def star(module):
    space = {}
    exec(f"from {module} import *", space)
    return space


@pytest.mark.parametrize("module", NAMES)
def test_every_module_of_fastai_has_its_mirror(module):
    importlib.import_module(f"callboard_fastai.{module}")


@pytest.mark.parametrize("module", MODULES)
def test_a_star_import_brings_what_it_says(module):
    listed = importlib.import_module(module).__all__

    assert set(listed) <= star(module).keys()
    assert len(listed) == len(set(listed))


def test_basics_bring_what_files_rely_on():
    space = star("callboard_fastai.basics")

    wanted = "torch nn F np plt pd os random math time Path partial Tensor Optional"
    wanted += " warn warnings L store_attr delegates patch listify ifnone noop"
    wanted += " Callback Learner Recorder Metric AvgMetric Module TensorBase tensor"
    wanted += " unsqueeze detuplify find_bs to_detach to_float to_device params"
    wanted += " default_device is_listy rank_distrib NoneReduce flatten_model first"
    wanted += " one_param join_path_file basic_repr ismin_torch save_model range_of"
    wanted += " Transform Pipeline CancelBatchException CancelFitException event"
    assert [name for name in wanted.split() if name not in space] == []


def test_basics_bring_the_standard_library_as_fastai_does():
    space = star("callboard_fastai.basics")

    wanted = (
        "methodcaller attrgetter itemgetter starmap takewhile dropwhile zip_longest"
    )
    wanted += " as_completed concurrent urllib bz2 Lock Process Queue queues set_trace"
    wanted += " TextWrapper LambdaType FunctionType matplotlib HalfTensor DoubleTensor"
    wanted += " CategoricalDtype is_numeric_dtype default_convert one_is_instance"
    assert [name for name in wanted.split() if name not in space] == []
    assert isinstance("text", space["string_classes"])
    assert space["one_is_instance"](3, "text", str)
    assert not space["one_is_instance"](3, 4.0, str)


def test_data_all_brings_layers_and_losses():
    space = star("callboard_fastai.data.all")

    assert {"CrossEntropyLossFlat", "LinBnDrop", "Flatten", "LongTensor"} <= set(space)


def test_torch_imports_brings_tensors_and_samplers():
    space = star("callboard_fastai.torch_imports")

    assert space["LongTensor"] is torch.LongTensor
    assert space["default_collate"] is torch.utils.data.default_collate
    assert {"RandomSampler", "IterableDataset", "as_tensor"} <= set(space)


@pytest.fixture
def torchvision(monkeypatch):
    """A torchvision that has one architecture."""
    library = types.ModuleType("torchvision")
    library.models = types.ModuleType("torchvision.models")
    library.models.resnet18 = lambda: "a resnet"
    for module in (library, library.models):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    exports._can_import.cache_clear()
    yield library
    exports._can_import.cache_clear()


def test_vision_brings_the_architectures_of_the_installed_torchvision(torchvision):
    space = star("callboard_fastai.vision.all")

    assert space["resnet18"]() == space["models"].resnet18() == "a resnet"
    assert "densenet121" not in space


def test_callbacks_all_brings_every_installed_callback():
    space = star("callboard_fastai.callback.all")

    for name in ("EarlyStoppingCallback", "SaveModelCallback", "MixUp", "CSVLogger"):
        assert name in space
    for name in ("SchedCos", "combine_scheds", "MixHandler", "HookCallback"):
        assert name in space


@pytest.mark.parametrize("family", ["vision", "text", "tabular"])
def test_the_families_bring_basics_and_callbacks(family):
    space = star(f"callboard_fastai.{family}.all")

    assert {"Callback", "Learner", "TrackerCallback", "nn", "np"} <= space.keys()


def test_modules_of_torch_are_torchs():
    space = star("callboard_fastai.torch_imports")

    assert space["torch"] is torch
    assert space["nn"] is nn


def test_helpers_are_those_of_fastcore():
    import fastcore.all

    from callboard_fastai.basics import L, listify, patch, store_attr

    assert L is fastcore.all.L
    assert listify is fastcore.all.listify
    assert patch is fastcore.all.patch
    assert store_attr is fastcore.all.store_attr


def test_cancels_are_callboards_own():
    from callboard_fastai.callback.core import CancelBatchException
    from callboard_fastai.learner import CancelFitException

    assert CancelBatchException is callboard.CancelBatchException
    assert CancelFitException is callboard.CancelFitException


def test_any_module_gives_any_name():
    from callboard_fastai.callback.hook import noop
    from callboard_fastai.learner import Path
    from callboard_fastai.metrics import Callback

    assert all(callable(name) for name in (noop, Path, Callback))


@pytest.mark.parametrize("name", exports._homes())
def test_every_name_of_this_package_is_where_it_should_be(name):
    assert exports.resolve(name) is not exports.MISSING


def test_counterparts_are_named_by_the_distribution_that_has_them():
    offered = {p.attribute: p.distribution for p in discovery.installed()}

    named = {n: d for n, d in exports.PLUGINS.items() if n in offered}

    assert named == {name: offered[name] for name in named}


def test_a_missing_counterpart_says_what_to_install(monkeypatch):
    monkeypatch.setitem(exports.PLUGINS, "LampCallback", "callboard-lamp")

    with pytest.raises(ImportError, match="python -m pip install callboard-lamp"):
        from callboard_fastai.callback.all import LampCallback  # noqa: F401


def test_a_missing_counterpart_is_no_attribute(monkeypatch):
    monkeypatch.setitem(exports.PLUGINS, "LampCallback", "callboard-lamp")

    module = importlib.import_module("callboard_fastai.callback.all")

    assert not hasattr(module, "LampCallback")
    assert "LampCallback" not in module.__all__


def test_names_that_fastai_lacks_are_an_error():
    with pytest.raises(ImportError, match="no_such_name"):
        from callboard_fastai.learner import no_such_name  # noqa: F401


def test_what_is_not_offered_may_be_mentioned_and_not_used():
    from callboard_fastai.vision.all import DataBlock, RandTransform

    class Tilt(RandTransform):
        order = 3

    def make(block: DataBlock) -> None: ...

    assert not isinstance(3, DataBlock)
    with pytest.raises(NotImplementedError, match="DataBlock of fastai is not offered"):
        DataBlock(blocks=())
    with pytest.raises(NotImplementedError, match="RandTransform"):
        Tilt()


def test_importing_the_package_imports_neither_torch_nor_fastcore():
    code = (
        "import sys, callboard_fastai;"
        "sys.exit('torch' in sys.modules or 'fastcore' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
