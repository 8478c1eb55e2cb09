"""``callboard plugins lock`` and ``diff``, and ``callboard fit --locked``."""

import base64
import hashlib
import json
import venv
from pathlib import Path

import pytest
import torch
from tests.command_line import run

from callboard.testing import Site

LAMPS = """\
from callboard import Callback
from shop_sockets import Socket

class Lamp(Socket):
    name = "lamp"

    def __init__(self, brightness: float = 0.5, colours=(1, 2), shape=None):
        self.brightness, self.colours, self.shape = brightness, colours, shape

    def after_epoch(self): ...

class Bulb(Callback):
    name = "bulb"
    def after_epoch(self): ...

def fit_slowly(learner, n_epoch: int):
    learner.fit(n_epoch)
"""
SOCKETS = """\
from callboard import Callback

class Socket(Callback):
    role = "observe"
"""
DESK = """\
from callboard import Callback

class Desk(Callback):
    name = "desk"
    def after_fit(self): ...
"""
TRAIN = """\
import torch
from callboard import Callback, DataLoaders, Learner

class Own(Callback):
    def __init__(self, every=2, how=len):
        self.every, self.how = every, how

    def before_fit(self):
        print("training begins")

def learner(size: int = 1):
    batches = [(torch.zeros(2, 1), torch.zeros(2, 1))]
    loss = torch.nn.MSELoss()
    cbs = [Own(), "bulb"]
    return Learner(DataLoaders(batches), torch.nn.Linear(1, size), loss, cbs=cbs)

def other():
    made = learner()
    made.remove_cb("bulb")
    return made
"""


@pytest.fixture
def site(shop):
    shop.install("shop-sockets", modules={"shop_sockets": SOCKETS})
    shop.install(
        "shop-lamps",
        plugins={"lamp": "shop_lamps:Lamp"},
        callbacks={"bulb": "shop_lamps:Bulb"},
        methods={"fit_slowly": "shop_lamps:fit_slowly"},
        modules={"shop_lamps": LAMPS},
    )
    Path("train.py").write_text(TRAIN)
    return shop


def lock(*arguments):
    run("plugins", "lock", *arguments)
    return json.loads(Path("callboard.lock").read_text())


def locked_fit(*arguments, code=0):
    return run("fit", "train.py", "--epochs", "1", "--locked", *arguments, code=code)


def diff(a, b, code=1):
    found = json.loads(run("plugins", "diff", a, b, "--json", code=code).stdout)
    return {(d["subject"], d["what"]): (d["a"], d["b"]) for d in found["differences"]}


def sha256(file):
    return "sha256:" + hashlib.sha256(Path(file).read_bytes()).hexdigest()


# What a lock holds


def test_a_lock_holds_every_active_plugin_in_running_order(site):
    plugins = lock("train.py")["plugins"]

    assert [plugin["key"] for plugin in plugins] == ["lamp", "own", "bulb"]
    assert plugins[0]["distribution"] == "shop-lamps"
    assert plugins[0]["version"] == "1.0"
    assert plugins[0]["entry_point"] == "shop_lamps:Lamp"
    assert plugins[0]["role"] == "observe"
    assert plugins[0]["options"] == {
        "brightness": 0.5,
        "colours": [1, 2],
        "shape": None,
    }


def test_a_lock_holds_a_hash_of_every_file_that_a_class_of_a_plugin_stands_in(site):
    content = lock("train.py")

    code = content["code"]
    assert content["plugins"][0]["code"] == ["shop-lamps", "shop-sockets"]
    assert code["shop-lamps"] == {
        "kind": "installed",
        "version": "1.0",
        "files": {"shop_lamps.py": sha256(site.folder / "shop_lamps.py")},
    }
    assert "shop_sockets.py" in code["shop-sockets"]["files"]
    assert "callboard/loop.py" in code["callboard"]["files"]


def test_code_of_the_users_own_is_locked_by_its_file_and_said_to_be_so(site):
    text = run("plugins", "lock", "train.py").stdout
    content = json.loads(Path("callboard.lock").read_text())

    own = content["plugins"][1]
    assert (own["distribution"], own["version"]) == (None, None)
    assert content["code"]["train.py"] == {
        "kind": "file",
        "version": None,
        "files": {"train.py": sha256("train.py")},
    }
    assert "Your own code, which no distribution ships: train.py." in text


def test_options_that_are_no_plain_data_are_said_to_be(site):
    text = run("plugins", "lock", "train.py").stdout

    assert "own has options that are no plain data: how (builtins.len)." in text


def test_an_editable_install_is_locked_by_its_files_and_said_to_be_one(
    shop, tmp_path, monkeypatch
):
    source = tmp_path / "source"
    source.mkdir()
    (source / "shop_desk.py").write_text(DESK)
    shop.install_editable("shop-desk", source, callbacks={"desk": "shop_desk:Desk"})
    monkeypatch.syspath_prepend(str(source))

    text = run("plugins", "lock", "--with", "desk").stdout

    code = json.loads(Path("callboard.lock").read_text())["code"]["shop-desk"]
    assert code == {
        "kind": "editable",
        "version": "1.0",
        "files": {"shop_desk.py": sha256(source / "shop_desk.py")},
    }
    assert "files may change at any time: " in text


def test_a_file_that_was_edited_after_it_was_installed_is_told_of(site):
    record = site.dist_info("shop-lamps") / "RECORD"
    file = site.folder / "shop_lamps.py"
    digest = hashlib.sha256(file.read_bytes()).digest()
    coded = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    record.write_text(f"shop_lamps.py,sha256={coded},\n")
    assert "was edited" not in run("plugins", "lock", "train.py").stdout

    file.write_text(file.read_text() + "\n# a patch\n")

    text = run("plugins", "lock", "train.py").stdout
    assert "shop-lamps 1.0 was edited since it was installed (shop_lamps.py)" in text


def test_without_a_target_what_is_active_in_every_learner_is_locked(site):
    Path("callboard.toml").write_text('allow = ["shop-lamps"]\nenable = ["bulb"]\n')

    content = lock()

    assert [plugin["key"] for plugin in content["plugins"]] == ["lamp", "bulb"]
    assert content["target"] is None


def test_the_lock_goes_where_it_is_told_to(site):
    run("plugins", "lock", "train.py", "--argument", "size=3", "-o", "a.lock")

    assert Path("a.lock").exists()
    assert not Path("callboard.lock").exists()
    error = run("plugins", "lock", "train.py", "-o", "no/such/a.lock", code=2).stderr
    assert "cannot be written" in error


def test_a_lock_replaces_a_lock_and_no_other_file(site):
    Path("callboard.lock").write_text("{ a damaged one")
    lock("train.py")
    run("plugins", "lock", "train.py", "-o", "a.json")
    run("plugins", "lock", "train.py", "-o", "a.json")

    error = run("plugins", "lock", "train.py", "-o", "train.py", code=2).stderr

    assert "train.py is there already and is no lock" in error
    assert Path("train.py").read_text() == TRAIN


def test_what_was_locked_is_listed_with_its_files(site):
    listed = run("plugins", "lock", "train.py").stdout.splitlines()

    assert listed[0] == "3 plugins in callboard.lock"
    assert listed[1].split() == [
        "lamp",
        "shop-lamps",
        "1.0",
        "2",
        "files,",
        "installed",
    ]
    assert listed[2].split() == ["own", "your", "own", "code", "1", "file"]


# A fit that is held to it


def test_a_fit_of_what_was_locked_trains(site):
    lock("train.py")

    assert "training begins" in locked_fit().stdout


def refusal(*arguments):
    result = locked_fit(*arguments, code=2)
    assert "training begins" not in result.stdout
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def test_a_plugin_more_or_less_is_refused_by_its_name(site):
    lock("train.py")

    assert (
        "lamp (shop-lamps 1.0) is in the lock and not active. Leave --without lamp"
        in (refusal("--without", "lamp"))
    )
    lock("train.py", "--without", "lamp")
    error = refusal()
    assert "lamp (shop-lamps 1.0) is active and not in the lock." in error
    assert "--without lamp leaves it out." in error


def test_another_option_is_refused_with_the_one_that_was_locked(site):
    lock("train.py", "--with", "lamp:brightness=0.25")

    error = refusal("--with", "lamp:brightness=0.75")

    assert "lamp: option brightness is 0.75 now and 0.25 in the lock." in error
    assert "--with lamp:brightness=0.25" in error


def test_a_refusal_tells_the_command_that_locks_what_the_fit_was_started_with(site):
    lock("train.py", "--with", "lamp:brightness=0.25")

    error = refusal("--with", "lamp:brightness=0.75", "--schedule", "slowly")

    again = "lock train.py --with lamp:brightness=0.75 --schedule slowly"
    assert f"`callboard plugins {again}` locks what is active now." in error
    lock(*again.split()[1:])
    locked_fit("--with", "lamp:brightness=0.75", "--schedule", "slowly")


def test_another_version_is_refused_with_what_to_install(site):
    lock("train.py")
    site.dist_info("shop-lamps").rename(site.dist_info("shop-lamps", "2.0"))
    metadata = site.dist_info("shop-lamps", "2.0") / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 2.0"))

    error = refusal()

    assert "shop-lamps 2.0 now and shop-lamps 1.0 in the lock" in error
    assert "python -m pip install shop-lamps==1.0" in error


@pytest.mark.parametrize("module", ["shop_lamps", "shop_sockets"])
def test_an_edited_file_is_refused_by_its_name(site, module):
    lock("train.py")
    file = site.folder / f"{module}.py"
    file.write_text(file.read_text() + "\n# another line\n")

    error = refusal()

    assert f"{module}.py is not what was locked" in error
    assert "--force-reinstall --no-deps" in error


def test_another_file_of_ones_own_is_refused(site):
    lock("train.py")
    Path("train.py").write_text(TRAIN + "\n# another line\n")

    assert "train.py is not what was locked" in refusal()


def test_another_schedule_is_refused(site):
    lock("train.py", "--schedule", "slowly")

    locked_fit("--schedule", "slowly")
    assert "fit_slowly: method of the fit is nothing now" in refusal()


def test_another_running_order_is_refused(site):
    lock("train.py", "--with", "lamp")
    content = json.loads(Path("callboard.lock").read_text())
    content["plugins"].reverse()
    Path("callboard.lock").write_text(json.dumps(content))

    assert "running order" in refusal("--with", "lamp")


def test_another_library_is_warned_about_and_no_reason_to_refuse(site):
    content = lock("train.py")
    content["environment"]["torch"] = "1.0"
    Path("callboard.lock").write_text(json.dumps(content))

    result = locked_fit()

    assert "training begins" in result.stdout
    assert "Warning: torch: version of the library is" in result.stderr


def test_without_a_lock_it_is_said_how_to_write_one(site):
    assert "There is no lock callboard.lock" in refusal()


def damaged(change):
    content = json.loads(Path("callboard.lock").read_text())
    change(content)
    return json.dumps(content)


DAMAGES = {
    "nothing": lambda: "",
    "no JSON": lambda: "{",
    "a list": lambda: "[1, 2]",
    "another file": lambda: '{"name": "package-lock"}',
    "too deep": lambda: "[" * 100_000,
    "a later format": lambda: damaged(lambda c: c.update(callboard_lock=2)),
    "no plugins": lambda: damaged(lambda c: c.pop("plugins")),
    "plugins of numbers": lambda: damaged(lambda c: c.update(plugins=[1])),
    "a key twice": lambda: damaged(lambda c: c["plugins"].append(c["plugins"][0])),
    "options of text": lambda: damaged(lambda c: c["plugins"][0].update(options="x")),
    "files of numbers": lambda: damaged(
        lambda c: c["code"]["shop-lamps"].update(files={"a": 1})
    ),
    "an unknown kind": lambda: damaged(
        lambda c: c["code"]["shop-lamps"].update(kind="x")
    ),
    "commands of a terminal": lambda: damaged(
        lambda c: c["plugins"][0].update(key="\x1b[2J")
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_lock_is_refused_in_a_sentence(site, name):
    lock("train.py")
    Path("callboard.lock").write_text(DAMAGES[name]())

    error = refusal()

    assert "callboard.lock" in error
    assert "\x1b" not in error


def test_an_option_in_a_lock_cannot_command_a_terminal(site):
    content = lock("train.py")
    content["plugins"][0]["options"]["brightness"] = "\x1b[2J"
    Path("callboard.lock").write_text(json.dumps(content))

    assert "\x1b" not in refusal()


# Comparisons


def test_two_locks_of_the_same_do_not_differ(site):
    lock("train.py")

    assert diff("callboard.lock", "callboard.lock", code=0) == {}
    assert diff("callboard.lock", "train.py", code=0) == {}


def test_a_lock_and_a_target_are_compared_in_all_that_a_lock_holds(site):
    lock("train.py")

    assert diff("callboard.lock", "train.py:other") == {
        ("bulb", "active"): ("shop-lamps 1.0", None)
    }
    text = run("plugins", "diff", "callboard.lock", "train.py:other", code=1).stdout
    assert text.splitlines()[1].split() == ["bulb", "active", "shop-lamps", "1.0", "-"]
    assert "To make train.py:other like callboard.lock:" in text


def test_a_lock_and_this_environment_are_compared_in_code(site):
    lock("train.py", "--with", "lamp:brightness=0.1")
    assert diff("callboard.lock", "here", code=0) == {}
    assert diff(".", "callboard.lock", code=0) == {}

    file = site.folder / "shop_lamps.py"
    before = sha256(file)[:19]
    file.write_text(LAMPS + "\n# another line\n")

    assert diff("callboard.lock", "here") == {
        ("shop-lamps", "file shop_lamps.py"): (before, sha256(file)[:19])
    }


def test_what_an_environment_cannot_be_compared_in_is_said(site):
    lock("train.py")

    text = " ".join(run("plugins", "diff", "callboard.lock", "here").stdout.split())

    assert text.startswith("callboard.lock and here do not differ.")
    assert (
        "Note: here is an environment, so options, running order and train.py were "
        "not compared." in text
    )
    Path("copy.lock").write_bytes(Path("callboard.lock").read_bytes())
    for a, b in (("here", "."), ("callboard.lock", "copy.lock")):
        assert "Note" not in run("plugins", "diff", a, b).stdout


def test_what_would_join_here_and_is_not_in_the_lock_is_a_difference(site):
    lock("train.py", "--without", "lamp")

    assert diff("callboard.lock", "here") == {
        ("lamp", "joining by being installed"): (None, "yes")
    }


def test_another_environment_is_compared_without_being_run(site, tmp_path):
    lock("train.py")
    place = tmp_path / "venv"
    venv.create(place)
    folder = next(place.glob("[Ll]ib*/**/site-packages"))
    other = Site(folder)
    other.install(
        "shop-lamps",
        version="2.0",
        plugins={"lamp": "shop_lamps:Lamp"},
        modules={"shop_lamps": "raise SystemExit('somebody has run me')"},
    )

    found = diff("callboard.lock", str(place))

    assert found["shop-lamps", "version"] == ("1.0", "2.0")
    assert found["shop-sockets", "version"] == ("1.0", None)


def test_a_saved_state_is_compared_in_plugins_versions_and_options(site):
    from callboard.cli.target import load_learner

    learner = load_learner("train.py")
    torch.save(learner.state_dict(), "state.pt")
    lock("train.py", "--with", "lamp:brightness=0.1")

    found = diff("state.pt", "callboard.lock")

    order = ("lamp > own > bulb", "own > bulb > lamp")
    assert found == {
        ("lamp", "option brightness"): ("0.5", "0.1"),
        ("the plugins", "running order"): order,
    }
    assert diff("state.pt", "here", code=0) == {}


def test_a_checkpoint_and_a_folder_of_them_are_compared_as_saved_states_are(site):
    pytest.importorskip("callboard_checkpoint")
    run("fit", "train.py", "--epochs", "1", "--with", "checkpoint")
    lock("train.py")
    (checkpoint,) = Path("checkpoints").glob("0*")

    for saved in (str(checkpoint), "checkpoints"):
        found = diff(saved, "callboard.lock")
        assert set(found) == {("checkpoint", "active")}
        assert diff(saved, "here", code=0) == {}


def test_what_can_be_compared_with_nothing_is_refused(site):
    Path("empty").mkdir()

    error = run("plugins", "diff", "nothing", "here", code=2).stderr
    assert "nothing is no lock, checkpoint" in error
    error = run("plugins", "diff", "nowhere.py", "here", code=2).stderr
    assert error.startswith("Error: nowhere.py does not exist.")
    assert run("plugins", "diff", "empty", "here", code=2).stderr


@pytest.mark.parametrize("name", ["callboard.lock", "a.lock", "a/b", "state.pt"])
def test_a_file_that_is_not_there_is_said_not_to_be(site, name):
    error = run("plugins", "diff", name, "here", code=2).stderr

    assert f"There is no {'lock ' * name.endswith('.lock')}{name}" in error


def test_a_lock_of_bits_is_damaged_and_no_checkpoint(site):
    Path("a.lock").write_bytes(bytes(range(256)))

    error = run("plugins", "diff", "a.lock", "here", code=2).stderr

    assert "a.lock is damaged, or no lock" in error
