"""Where every name of fastai comes from, looked up when it is asked for.

A module of this package defines some names itself. Every other name that a file may
import from fastai is found here: in another module of this package, among the installed
plugins of Callboard, in fastcore and fasttransform, or in what fastai's star imports
bring along (``np``, ``nn``, ``Path``). Nothing is imported before it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import FrameType
from typing import Any

from callboard import control, discovery
from callboard_fastai.names import ARCHITECTURES, INNER_NAMES, NAMES

ROOT = "callboard_fastai"

#: Module of this package -> the names that it defines for others.
HOMES = {
    "callback.core": """
        Callback TrainEvalCallback _events _inner_loop _loop event
    """,
    "learner": "Learner load_learner",
    "front.membership": "defaults",
    "measuring": """
        AvgLoss AvgMetric AvgSmoothLoss Metric ValueMetric _maybe_item mk_metric
    """,
    "recording": "Recorder format_time",
    "files": "load_model save_model",
    "derivable.loop": """
        CastToTensor SkipToEpoch _cast_tensor before_batch_cb replacing_yield
    """,
    "torch_core": """
        Module TensorBase TensorCategory TensorFlowField TensorImage TensorImageBW
        TensorImageBase TensorMask TensorMultiCategory TitledTensorScalar apply
        apply_init apply_leaf batch_to_samples concat cond_init default_device
        distrib_barrier find_bs find_device flatten_check get_model get_random_states
        init_default ismin_torch item_find logit maybe_gather nested_reorder no_random
        norm_bias_params norm_types notmax_torch np_func num_distrib one_hot one_param
        params pv rank_distrib requires_grad set_random_states set_seed subplots tensor
        to_concat to_cpu to_detach to_device to_float to_half to_np trainable_params
        unsqueeze unsqueeze_
    """,
    "layers": """
        AdaptiveConcatPool1d AdaptiveConcatPool2d Embedding Flatten Identity Lambda
        LinBnDrop Mish NoneReduce ParameterModule PartialLambda ResizeBatch SigmoidRange
        Swish View children_and_parameters flatten_model has_children in_channels
        sequential sigmoid sigmoid_range trunc_normal_
    """,
    "losses": """
        BCELossFlat BCEWithLogitsLossFlat BaseLoss CrossEntropyLossFlat FocalLoss
        FocalLossFlat L1LossFlat LabelSmoothingCrossEntropy
        LabelSmoothingCrossEntropyFlat MSELossFlat
    """,
    "metrics": """
        AccumMetric ActivationType LossMetric LossMetrics Perplexity accuracy
        accuracy_multi error_rate mae mse msle perplexity rmse skm_to_fastai
        top_k_accuracy
    """,
    "optimizer": """
        Adam Lamb Larc Lookahead OptimWrapper Optimizer QHAdam RAdam RMSProp SGD ranger
    """,
    "views": "pytorch_hp_map",
    "data.load": "DataLoader DataLoaders TfmdDL",
    "imports": "one_is_instance string_classes",
    "test_utils": "RegModel VerboseCallback synth_dbunch synth_learner",
    "derivable.fetching": """
        CollectDataCallback FetchPredsCallback GatherPredsCallback ShortEpochCallback
    """,
    "derivable.hooks": """
        ActivationStats Hook HookCallback Hooks dummy_eval has_params hook_output
        hook_outputs model_sizes num_features_model total_params
    """,
    "derivable.mixing": "CutMix MixHandler MixUp reduce_loss",
    "derivable.reports": "CSVLogger ProgressCallback",
    "derivable.schedulers": "LRFinder ParamScheduler",
    "derivable.trackers": """
        EarlyStoppingCallback ReduceLROnPlateau SaveModelCallback TerminateOnNaNCallback
        TrackerCallback
    """,
    "derivable.training": """
        AMPMode GradientAccumulation GradientClip MixedPrecision ModelResetter
        RNNCallback RNNRegularizer rnn_cbs
    """,
}

#: Callboard's own are fastai's too: whoever raises one reaches the same loop.
CANCELS = frozenset(
    {cls.__name__ for cls in control.CancelException.__subclasses__()}
    | {"CancelException"}
)

#: fastai's callbacks -> the distribution whose plugin is the counterpart.
PLUGINS = {
    "ActivationStats": "callboard-hooks",
    "AdaptiveGANSwitcher": "callboard-gan",
    "AzureMLCallback": "callboard-azure-ml",
    "BnFreeze": "callboard-bn-freeze",
    "CSVLogger": "callboard-csv-logger",
    "CaptumInterpretation": "callboard-captum",
    "CastToTensor": "callboard-cast-to-tensor",
    "ChannelsLast": "callboard-channels-last",
    "CollectDataCallback": "callboard-collect-data",
    "CometCallback": "callboard-comet",
    "CutMix": "callboard-cutmix",
    "EarlyStoppingCallback": "callboard-early-stopping",
    "FetchPredsCallback": "callboard-fetch-preds",
    "FixedGANSwitcher": "callboard-gan",
    "GANDiscriminativeLR": "callboard-gan",
    "GANTrainer": "callboard-gan",
    "GatherPredsCallback": "callboard-gather-preds",
    "GradientAccumulation": "callboard-gradient-accumulation",
    "GradientClip": "callboard-gradient-clip",
    "HookCallback": "callboard-hooks",
    "LRFinder": "callboard-lr-finder",
    "MCDropoutCallback": "callboard-mc-dropout",
    "MixUp": "callboard-mixup",
    "MixedPrecision": "callboard-mixed-precision",
    "ModelResetter": "callboard-rnn",
    "ParallelTrainer": "callboard-parallel-trainer",
    "ParamScheduler": "callboard-schedule",
    "ProgressCallback": "callboard-progress",
    "RNNCallback": "callboard-rnn",
    "RNNRegularizer": "callboard-rnn",
    "Recorder": "callboard-recorder",
    "ReduceLROnPlateau": "callboard-reduce-lr-on-plateau",
    "SaveModelCallback": "callboard-save-model",
    "ShortEpochCallback": "callboard-short-epoch",
    "ShowGraphCallback": "callboard-show-graph",
    "TensorBoardCallback": "callboard-tensorboard",
    "TensorBoardProjectorCallback": "callboard-tensorboard",
    "TerminateOnNaNCallback": "callboard-terminate-on-nan",
    "TrackerCallback": "callboard-tracker",
    "VerboseCallback": "callboard-verbose",
    "WandbCallback": "callboard-wandb",
}

#: Module of Callboard's plugins -> functions of fastai that it has.
FUNCTIONS = {
    "callboard_gan": """
        AdaptiveLoss AddChannels GANLearner GANLoss GANModule accuracy_thresh_expand
        basic_critic basic_generator gan_critic gan_loss_from_func
    """,
    "callboard_lr_finder": "minimum slide steep valley",
    "callboard_schedule": """
        SchedCos SchedExp SchedLin SchedNo SchedPoly combine_scheds combined_cos
    """,
    "callboard_tensorboard": "projector_word_embeddings",
    "callboard_vision": """
        TimmBody cnn_learner create_body create_head cut_model default_split
        has_pool_type vision_learner
    """,
    "callboard_weighted_dl": """
        PartialDL WeightedDL partial_dataloaders weighted_dataloaders
    """,
}
PLUGIN_FUNCTIONS = {
    name: f"{module}:{name}"
    for module, names in FUNCTIONS.items()
    for name in names.split()
}

#: What its ``torch_imports`` names of torch's.
TENSORS_AND_SAMPLERS = {
    **{
        name: f"torch:{name}"
        for name in (
            *("ByteTensor", "DoubleTensor", "FloatTensor", "HalfTensor"),
            *("LongTensor", "as_tensor"),
        )
    },
    **{
        name: f"torch.utils.data:{name}"
        for name in (
            *("BatchSampler", "IterableDataset", "RandomSampler", "Sampler"),
            *("SequentialSampler", "default_collate", "default_convert"),
            "get_worker_info",
        )
    },
}

#: What fastai's star imports bring besides: name -> module, or module:attribute.
BROUGHT_ALONG = {
    "F": "torch.nn.functional",
    "Tensor": "torch:Tensor",
    "np": "numpy",
    "pd": "pandas",
    "plt": "matplotlib.pyplot",
    "nn": "torch.nn",
    "array": "numpy:array",
    "ndarray": "numpy:ndarray",
    "warn": "warnings:warn",
    "partial": "functools:partial",
    "reduce": "functools:reduce",
    "copy": "copy:copy",
    "deepcopy": "copy:deepcopy",
    "datetime": "datetime:datetime",
    "Path": "pathlib:Path",
    "Number": "numbers:Number",
    "Real": "numbers:Real",
    "SimpleNamespace": "types:SimpleNamespace",
    "TextWrapper": "textwrap:TextWrapper",
    "as_completed": "concurrent.futures:as_completed",
    "ndimage": "scipy:ndimage",
    "set_trace": "pdb:set_trace",
    "urlopen": "urllib.request:urlopen",
    "dispatch": "plum:dispatch",
    "Beta": "torch.distributions.beta:Beta",
    "NoneType": "types:NoneType",
    **{
        name: name
        for name in (
            *("torch", "io", "operator", "sys", "os", "re", "mimetypes", "csv"),
            *("itertools", "json", "shutil", "glob", "pickle", "tarfile"),
            *("collections", "hashlib", "types", "inspect", "functools", "random"),
            *("time", "math", "typing", "numbers", "string", "threading"),
            *("tempfile", "warnings", "zipfile", "contextlib", "multiprocessing"),
            *("bz2", "concurrent", "urllib", "matplotlib", "requests", "scipy"),
            *("platform", "yaml"),
        )
    },
    **{
        name: f"itertools:{name}"
        for name in ("dropwhile", "starmap", "takewhile", "zip_longest")
    },
    **{
        name: f"multiprocessing:{name}"
        for name in ("Lock", "Process", "Queue", "queues")
    },
    **{
        name: f"types:{name}"
        for name in (
            *("BuiltinFunctionType", "BuiltinMethodType", "FunctionType"),
            *("LambdaType", "MethodType", "MethodWrapperType"),
            *("MethodDescriptorType", "WrapperDescriptorType"),
        )
    },
    **{
        name: f"pandas.api.types:{name}"
        for name in ("CategoricalDtype", "is_numeric_dtype")
    },
    **{
        name: f"typing:{name}"
        for name in ("Any", "Callable", "List", "Optional", "TypeVar", "Union")
    },
    **{
        name: f"collections.abc:{name}"
        for name in (
            *("Generator", "Iterable", "Iterator", "MutableMapping"),
            *("MutableSequence", "Sequence"),
        )
    },
    **{
        name: f"collections:{name}"
        for name in ("Counter", "OrderedDict", "defaultdict", "namedtuple")
    },
    **{name: f"enum:{name}" for name in ("Enum", "IntEnum")},
    **{name: f"contextlib:{name}" for name in ("contextmanager", "redirect_stdout")},
    **{
        name: f"operator:{name}"
        for name in ("attrgetter", "itemgetter", "methodcaller")
    },
    **TENSORS_AND_SAMPLERS,
    **{name: f"fastprogress:{name}" for name in ("master_bar", "progress_bar")},
}

#: Modules that star imports bring by their own names.
SUBMODULES = {
    "models": f"{ROOT}.vision.models",
    "unet": f"{ROOT}.vision.models.unet",
    "xresnet": f"{ROOT}.vision.models.xresnet",
}

#: Where names are that are neither this package's nor a plugin's.
ADDRESSES = {
    **PLUGIN_FUNCTIONS,
    **BROUGHT_ALONG,
    **SUBMODULES,
    **{name: f"torchvision.models:{name}" for name in ARCHITECTURES.split()},
}

#: Libraries whose whole contents fastai's star imports bring.
LIBRARIES = ("fastcore.all", "fasttransform")

BASICS = (
    *("imports", "torch_imports", "torch_core", "layers", "losses", "data.all"),
    *("optimizer", "callback.core", "learner", "metrics", "interpret"),
)
CALLBACKS = (
    *("callback.core", "callback.data", "callback.fp16", "callback.hook"),
    *("callback.mixup", "callback.progress", "callback.schedule", "callback.tracker"),
    *("callback.rnn", "callback.training", "callback.preds", "callback.channelslast"),
)
DATA = ("data.core", "data.load", "data.external", "data.block", "data.transforms")
#: Modules whose star import brings those of others.
GATHERED = {
    "torch_basics": ("imports", "torch_imports", "torch_core", "layers", "losses"),
    "data.all": (
        *("imports", "torch_imports", "torch_core", "layers", "losses"),
        *DATA,
    ),
    "basics": BASICS,
    "callback.all": CALLBACKS,
    "vision.all": (
        *(*BASICS, *CALLBACKS, "vision.augment", "vision.core", "vision.data"),
        *("vision.learner", "vision.utils", "vision.models.unet"),
        *("vision.models.xresnet", "vision.models", "vision.models.tvm"),
    ),
    "text.all": (
        *(*BASICS, *CALLBACKS, "text.core", "text.data", "text.learner"),
        *("text.models.core", "text.models.awdlstm"),
    ),
    "tabular.all": (
        *(*BASICS, *CALLBACKS, "tabular.core", "tabular.data", "tabular.learner"),
        *("tabular.model",),
    ),
    "vision.models": ("vision.models.tvm",),
    "vision.models.all": ("vision.models.unet", "vision.models.xresnet"),
}


def exporting(
    module: str,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a module that mirrors one of fastai's.

    Args:
        module: Its ``__name__``.
    """

    def lookup(name: str) -> Any:
        if name == "__all__":
            return list(star_names(module.partition(".")[2]))
        if name.startswith("__") or _homes().get(name) == module:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        found = resolve(name)
        if found is MISSING:
            raise _missing(module, name, sys._getframe(1))
        return found

    def listing() -> list[str]:
        return sorted({*vars(sys.modules[module]), *lookup("__all__")})

    return lookup, listing


MISSING = object()


def resolve(name: str) -> Any:
    """What a name of fastai's means here, or ``MISSING``."""
    if name in CANCELS:
        return getattr(control, name)
    home = _homes().get(name)
    if home is not None:
        return getattr(import_module(home), name)
    if name in PLUGINS:
        plugin = installed_plugin(name)
        return MISSING if plugin is None else plugin.load()
    address = ADDRESSES.get(name)
    if address is not None and _can_import(address):
        return _at(address)
    for library in LIBRARIES:
        found = getattr(import_module(library), name, MISSING)
        if found is not MISSING:
            return found
    return mentioned(name) if name in _known_names() else MISSING


def star_names(module: str) -> Iterator[str]:
    """The names that a star import from a module of fastai's brings here."""
    seen: set[str] = set()
    for name in _names_of(module):
        if name not in seen and _is_available(name):
            seen.add(name)
            yield name


def _names_of(module: str) -> Iterator[str]:
    if module == "imports":
        yield from (*BROUGHT_ALONG, "pv")
        for library in LIBRARIES:
            loaded = import_module(library)
            names = getattr(loaded, "__all__", None) or dir(loaded)
            yield from (name for name in names if not name.startswith("_"))
    elif module == "torch_imports":
        yield from ("torch", "nn", "F", "Tensor", "pd", *TENSORS_AND_SAMPLERS)
    elif module == "vision.models.tvm":
        yield from ARCHITECTURES.split()
    for part in GATHERED.get(module, ()):
        yield from _names_of(part)
    yield from NAMES.get(module, "").split()
    if module in HOMES:
        yield from (n for n in HOMES[module].split() if not n.startswith("_"))


def _is_available(name: str) -> bool:
    if name in PLUGINS and name not in _homes():
        return installed_plugin(name) is not None
    address = ADDRESSES.get(name)
    if address is None:
        return True
    if address.startswith("torchvision"):  # which of them it has hangs on its version
        return _can_import(address) and hasattr(_at("torchvision.models"), name)
    return _can_import(address)


@lru_cache(maxsize=1)
def _homes() -> dict[str, str]:
    return {
        name: f"{ROOT}.{module}"
        for module, names in HOMES.items()
        for name in names.split()
    }


@lru_cache(maxsize=1)
def _known_names() -> frozenset[str]:
    texts = (*NAMES.values(), INNER_NAMES)
    return frozenset(name for text in texts for name in text.split())


def installed_plugin(name: str) -> Any:
    """The installed plugin whose class has this name, or None."""
    for plugin in discovery.installed():
        if plugin.attribute == name and plugin.kind in ("plugin", "callback"):
            return plugin
    return None


@lru_cache(maxsize=256)
def _can_import(address: str) -> bool:
    module = address.partition(":")[0]
    top = module.partition(".")[0]
    return top in sys.modules or find_spec(top) is not None


def _at(address: str) -> Any:
    module, _, attribute = address.partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


class Mentioning(type):
    """A class of which files may mention what fastai's has and this one lacks."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return mentioned(name)


class Mentioned(Mentioning):
    """A name of fastai that files may mention, derive from and annotate with."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        name = cls._mentioned
        raise NotImplementedError(
            f"{name} of fastai is not offered by callboard-fastai, which is about "
            "callbacks: a file may mention it, but not use it. Install fastai to use "
            "it."
        )


@lru_cache(maxsize=1024)
def mentioned(name: str) -> Any:
    """A class that stands for what is not offered; using it is an error."""
    return Mentioned(name, (), {"_mentioned": name, "__module__": ROOT})


def _missing(module: str, name: str, asker: FrameType) -> Exception:
    message = f"cannot import name {name!r} from {module!r}"
    if name in PLUGINS:
        message += f": {install_hint(name)}"
    if name in PLUGINS and _is_from_import(asker):
        return ImportError(message, name=module)
    return AttributeError(message, name=name)


def install_hint(name: str) -> str:
    """How to get the plugin that is the counterpart of one of fastai's callbacks."""
    distribution = PLUGINS[name]
    return (
        f"its counterpart is a plugin that is not installed. {distribution} offers it: "
        f"python -m pip install {distribution}"
    )


def _is_from_import(asker: FrameType) -> bool:
    """Whether ``asker`` is at ``from callboard_fastai... import ...``.

    Python replaces an AttributeError there by an ImportError without our text, so
    there, and only there, ours has to be an ImportError already.
    """
    import dis

    instruction = asker.f_code.co_code[asker.f_lasti]
    return dis.opname[instruction] == "IMPORT_FROM"
