"""Nothing that is loaded runs code, whatever it holds and whoever reads it."""

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.command_line import run
from torch import nn

from callboard import Learner
from callboard.errors import CallboardError, StateError
from callboard.plain import read_plain
from callboard_checkpoint import CheckpointCallback
from callboard_fastai.files import load_model
from callboard_fastai.learner import load_learner
from callboard_save_model import load_optimizer, read_weights
from callboard_save_model import load_weights as load_saved
from callboard_vision import load_weights as load_pretrained

MODEL = nn.Linear(2, 2)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, call=os.mkdir, *arguments):
        self.call, self.arguments = call, arguments or ("owned",)

    def __reduce__(self):
        return self.call, self.arguments


def saved(held, *, is_zip=True):
    stream = io.BytesIO()
    torch.save(held, stream, _use_new_zipfile_serialization=is_zip)
    return stream.getvalue()


def zipped(program):
    """A file of torch whose pickle is replaced by another."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"weight": torch.ones(2)}))) as good,
        zipfile.ZipFile(made, "w") as bad,
    ):
        for name in good.namelist():
            content = program if name.endswith("data.pkl") else good.read(name)
            bad.writestr(name, content)
    return made.getvalue()


def with_opcodes(module, name, argument):
    """A pickle by hand, which no class has to be defined for."""
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = io.BytesIO()
        torch.jit.save(torch.jit.script(MODEL), stream)
    return stream.getvalue()


CORPUS = {
    "torch.save of an object": saved(Evil()),
    "torch.save of old": saved(Evil(), is_zip=False),
    "in the values of a state": saved({**MODEL.state_dict(), "bias": Evil()}),
    "in the names of a state": saved([({"weight": torch.ones(2)}, Evil())]),
    "in the metadata of a state": saved({"model": {}, "opt": {"state": {0: Evil()}}}),
    "a bare pickle": pickle.dumps(Evil()),
    "of protocol 0": pickle.dumps(Evil(), protocol=0),
    "by exec": pickle.dumps(Evil(exec, "import os; os.mkdir('owned')")),
    "by eval": saved(Evil(eval, "__import__('os').mkdir('owned')")),
    "by getattr": saved(Evil(getattr, "owned", "upper")),
    "opcodes alone": with_opcodes("os", "mkdir", "owned"),
    "opcodes in a zip": zipped(b"\x80\x02" + with_opcodes("os", "mkdir", "owned")),
    "opcodes by posix": zipped(with_opcodes("posix", "mkdir", "owned")),
    "by torch's own": zipped(with_opcodes("torch.hub", "load", "owned")),
    "items set on what is no mapping": zipped(
        b"\x80\x02ccollections\nOrderedDict\n)RctorchFloatStorage\n."
    ),
    "a whole module": saved(MODEL),
    "a program of TorchScript": scripted(),
    "not even a pickle": b"\x00" * 64,
    "empty": b"",
    "text": b"import os\nos.mkdir('owned')\n",
    "a head that promises too much": struct.pack("<Q", 1 << 60) + b"{}",
    "a head that lies": struct.pack("<Q", 60)
    + b'{"weight":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(60),
}
READERS = {
    "read_plain": read_plain,
    "save-model, optimizer": lambda file: load_optimizer(
        torch.optim.Adam(MODEL.parameters()), file
    ),
    "save-model, weights": lambda file: load_saved(MODEL, file),
    "vision, .pth": lambda file: load_pretrained(MODEL, file),
    "vision, .safetensors": lambda file: load_pretrained(
        MODEL, file.rename(file.with_suffix(".safetensors"))
    ),
    "fastai, learn.load": lambda file: load_model(file, MODEL, None, with_opt=False),
    "fastai, load_learner": load_learner,
    "a fit that goes on": lambda file: Learner(
        [(torch.ones(2, 2), torch.ones(2, 2))],
        MODEL,
        nn.MSELoss(),
        cbs=CheckpointCallback(folder="saves"),
    ).fit(1, resume=file),
}


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CALLBOARD_FASTAI_UNPICKLE", raising=False)
    return tmp_path


def was_owned():
    return Path("owned").exists()


def test_the_corpus_would_run_code_where_anybody_let_it():
    for name in ("torch.save of an object", "opcodes in a zip", "by eval"):
        torch.load(io.BytesIO(CORPUS[name]), weights_only=False)
        assert was_owned()
        Path("owned").rmdir()


@pytest.mark.parametrize("named", ["folder", "file"])
def test_metadata_of_torchs_distributed_checkpoints_is_never_unpickled(named):
    folder = Path("given")
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    (folder / "__0_0.distcp").write_bytes(saved(Evil()))

    with pytest.raises(CallboardError, match="given"):
        READERS["a fit that goes on"](
            folder if named == "folder" else folder / ".metadata"
        )

    assert not was_owned()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("what", CORPUS)
def test_a_file_that_holds_more_than_data_is_refused(what, reader):
    file = Path("given.pth")
    file.write_bytes(CORPUS[what])

    with pytest.raises(CallboardError, match=r"given"):
        READERS[reader](file)

    assert not was_owned()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.binary(max_size=40), st.sampled_from([MODEL.state_dict(), {"a": 1}]), st.data()
)
def test_whatever_is_written_over_a_file_it_is_refused_or_is_plain_data(
    noise, state, data
):
    content = bytearray(saved(state))
    start = data.draw(st.integers(0, len(content)))
    content[start : start + len(noise)] = noise
    file = Path("given.pth")
    file.write_bytes(content)

    with suppress(StateError):
        assert isinstance(read_plain(file), dict)
    assert not was_owned()


def test_what_torch_and_safetensors_wrote_is_read(work):
    from safetensors.torch import save_file

    torch.save({"weight": torch.ones(2), "epoch": 3}, "plain.pt")
    save_file({"weight": torch.ones(2)}, "plain.safetensors")

    assert read_plain("plain.pt")["epoch"] == 3
    assert read_plain(io.BytesIO(saved([1, 2]))) == [1, 2]
    assert list(read_weights("plain.safetensors")) == ["weight"]
    with pytest.raises(FileNotFoundError):
        read_plain("nowhere.pt")


def test_a_pickled_learner_is_read_where_its_reader_says_so(monkeypatch):
    learner = Learner([], MODEL, nn.MSELoss())
    torch.save(learner, "export.pkl")

    with pytest.raises(StateError, match="CALLBOARD_FASTAI_UNPICKLE=1"):
        load_learner("export.pkl")
    monkeypatch.setenv("CALLBOARD_FASTAI_UNPICKLE", "1")

    assert isinstance(load_learner("export.pkl").model, nn.Linear)


# ---- checkpoints whose text was changed by somebody who knows how ----------------


def checkpointed():
    learner = Learner(
        [(torch.ones(2, 2), torch.ones(2, 2))],
        nn.Linear(2, 2),
        nn.MSELoss(),
        cbs=CheckpointCallback(folder="saves", every="1 epoch"),
    )
    learner.fit(1)
    [made] = [path for path in Path("saves").iterdir() if path.is_dir()]
    return learner, made


def forged(checkpoint, change):
    """Change the text of a checkpoint, and make its checksum right again."""
    import hashlib

    head = checkpoint / "checkpoint.json"
    content = json.loads(head.read_bytes().partition(b"\n")[2])
    change(content)
    text = json.dumps(content).encode()
    head.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def test_a_forged_name_of_a_plugin_leads_out_of_no_folder():
    learner, checkpoint = checkpointed()

    def rename(content):
        content["state"]["plugins"] = {"../../owned": {"epoch": 1}}
        for entry in content["state"]["lock"]:
            entry |= {"key": "../../owned", "name": "../../owned"}

    forged(checkpoint, rename)

    with pytest.raises(StateError, match=r"\.\./\.\./owned"):
        learner.fit(2, resume=checkpoint, resume_policy="strict")
    assert not list(Path().glob("**/owned*"))
    assert not list(Path("..").glob("owned*"))


# What a state may say: no plugins, no optimizer, another position.
MAY_BE = {"plugins": [{}, {"a": 1}], "opt": [None], "lock": [[]], "next": [[1, 2]]}


@pytest.mark.parametrize("part", [None, 3, "x", [], {}, [1, 2], {"a": 1}])
@pytest.mark.parametrize("name", ["loop", "lock", "plugins", "opt", "model", "next"])
def test_a_forged_part_of_another_kind_is_refused_in_words(name, part):
    learner, checkpoint = checkpointed()

    def replace(content):
        state = content["state"]
        (state["loop"] if name == "next" else state)[name] = part

    forged(checkpoint, replace)

    is_refused = part not in MAY_BE.get(name, ())
    with pytest.raises(CallboardError) if is_refused else nullcontext():
        learner.fit(2, resume=checkpoint, resume_policy="ignore")


@pytest.mark.parametrize("name", ["../owned", "/tmp/owned", "..\\owned", "a/b", "~"])
def test_a_plugin_or_target_of_the_command_line_is_no_path(name, work):
    Path("train.py").write_text(
        "from torch import nn\n"
        "from callboard import Learner\n"
        "def learner():\n"
        "    return Learner([], nn.Linear(1, 1))\n"
    )

    error = run(*("fit", "train.py", "--epochs", "0", "--with", name), code=2).stderr

    assert name.partition(":")[0] in error
    assert [path.name for path in Path().iterdir()] == ["train.py"]


# ---- who takes part ----------------------------------------------------------------

OBSERVER = """
from callboard import Callback

class Spy(Callback):
    name = "spy"
    role = "observe"

    def before_fit(self):
        print("spy takes part")
"""
TRAIN = """
import torch
from torch import nn
from callboard import Learner

def learner():
    batches = [(torch.ones(2, 1), torch.ones(2, 1))]
    return Learner(batches, nn.Linear(1, 1), nn.MSELoss(), path=".")

def by_name():
    made = learner()
    made.add_cb("spy")
    return made

def by_fit():
    made = learner()
    fit = made.fit
    made.fit = lambda *a, **k: fit(*a, cbs=["spy"], **k)
    return made
"""
SPIED = "spy takes part"


@pytest.fixture
def spy(shop):
    shop.install(
        "shop-lamps",
        plugins={"spy": "shop_lamps:Spy"},
        modules={"shop_lamps": OBSERVER},
    )
    Path("train.py").write_text(TRAIN)


def fit(target="train.py", *arguments, code=0):
    return run("fit", target, "--epochs", "1", *arguments, code=code).output


def test_an_automatic_observer_joins(spy):
    assert SPIED in fit()


def test_one_that_is_not_allowed_joins_by_being_named_alone(spy):
    Path("callboard.toml").write_text('allow = ["another"]\n')

    assert SPIED not in fit()
    assert SPIED in fit("train.py", "--with", "spy")


@pytest.mark.parametrize("target", ["train.py", "train.py:by_name", "train.py:by_fit"])
@pytest.mark.parametrize("way", ["file", "environment"])
def test_one_that_is_disabled_joins_by_no_way(spy, target, way, monkeypatch):
    if way == "file":
        Path("callboard.toml").write_text(
            'allow = ["shop-lamps"]\nenable = ["spy"]\ndisable = ["spy"]\n'
        )
    else:
        monkeypatch.setenv("CALLBOARD_DISABLE", "spy")

    assert SPIED not in fit(target)


def test_without_autoload_nothing_joins_by_being_installed(spy, monkeypatch):
    monkeypatch.setenv("CALLBOARD_AUTOLOAD", "0")

    assert SPIED not in fit()
