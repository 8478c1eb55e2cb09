"""``callboard fit``, and the targets that it shares with other commands."""

import sys
from pathlib import Path

import pytest
from tests.command_line import run, run_python

from callboard.cli.target import Target, parse_target

MODULE = """\
from callboard import Callback

class Lamp(Callback):
    name = "lamp"
    role = "observe"

    def __init__(self, *, brightness: float = 0.5):
        self.brightness = brightness

    def after_epoch(self):
        print("lamp", self.brightness)

class Mixer(Callback):
    name = "mixer"

    def __init__(self, alpha: float, sizes: list[int] | None = None):
        self.alpha, self.sizes = alpha, sizes

    def before_fit(self):
        print("mixer", self.alpha, self.sizes)

def fit_slowly(learner, n_epoch: int, lr_max: float | None = None, pause: float = 0):
    print("slowly", n_epoch, lr_max, pause)
    learner.fit(n_epoch, lr_max)

def fit_in_rounds(learner, num_rounds: int):
    raise AssertionError
"""
TRAIN = """\
import torch
from torch import nn
from callboard import Callback, DataLoaders, Learner, hookimpl

print("made by", __name__)

class Report(Callback):
    def after_batch(self):
        if self.training:
            print("rates", [group["lr"] for group in self.opt.param_groups])

    def after_epoch(self):
        self.learn.results["num_seen"] = self.epoch
        if self.epoch == 3:
            self.learn.stop("that will do")

def learner(width: int = 1, *, fail: bool = False, name="x", scale: "float" = 1.0):
    print("width", repr(width), "name", repr(name), "scale", repr(scale))
    batches = [(torch.zeros(2, 1), torch.zeros(2, 1))]
    def loss(pred, target):
        if fail:
            raise ZeroDivisionError("a bug in the loss")
        return ((pred - target) ** 2).mean()
    return Learner(DataLoaders(batches, batches), nn.Linear(1, 1), loss, cbs=Report)

def two_groups():
    batches = [(torch.zeros(2, 1), torch.zeros(2, 1))]
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    split = lambda m: [list(m[0].parameters()), list(m[1].parameters())]
    loss = nn.MSELoss()
    return Learner(DataLoaders(batches), model, loss, cbs=Report, splitter=split)

def nothing():
    return 3

an_object = 3
"""


@pytest.fixture
def train(shop):
    """A target in the working folder, and plugins to use with it."""
    shop.install(
        "shop-lamps",
        plugins={"lamp": "shop_lamps:Lamp"},
        callbacks={"mixer": "shop_lamps:Mixer"},
        methods={
            "fit_slowly": "shop_lamps:fit_slowly",
            "fit_in_rounds": "shop_lamps:fit_in_rounds",
        },
        modules={"shop_lamps": MODULE},
    )
    Path("train.py").write_text(TRAIN)
    return "train.py"


def fit(*arguments, code=0, epochs=1):
    return run("fit", *arguments, "--epochs", str(epochs), code=code)


def rates(text):
    lines = [line for line in text.splitlines() if line.startswith("rates")]
    return lines[0].partition(" ")[2]


# A run


def test_fit_shows_the_board_trains_and_says_how_it_ended(train):
    text = fit(train, epochs=5).stdout

    board, _, rest = text.partition("\n\n")
    assert "lamp    observe  shop-lamps 1.0  installed" in board
    assert "report  modify   train.py        cbs" in board
    assert rest.count("lamp 0.5") == 4
    assert rest.splitlines()[-2].startswith("Done in ")
    assert rest.splitlines()[-2].endswith(" s; epoch 3: num_seen 3")
    assert "Ended in epoch 3 by report: that will do\n" in rest


@pytest.mark.parametrize(
    ("target", "lr", "expected"),
    [
        ("train.py", "0.25", "[0.25]"),
        ("train.py", "1e-4", "[0.0001]"),
        ("train.py:two_groups", "slice(0.1,0.2)", "[0.1, 0.2]"),
        ("train.py:two_groups", "slice(0.2)", "[0.02, 0.2]"),
    ],
)
def test_the_learning_rate_is_a_number_or_a_slice(train, target, lr, expected):
    assert rates(fit(target, "--lr", lr).stdout) == expected


@pytest.mark.parametrize("lr", ["fast", "slice(1,2,3)", "slice()", "1,2", "slice(a,b)"])
def test_a_wrong_learning_rate_is_refused(train, lr):
    assert "neither a number nor slice" in fit(train, "--lr", lr, code=2).stderr


@pytest.mark.parametrize("epochs", [-1, 1.5, "many"])
def test_a_wrong_number_of_epochs_is_refused(train, epochs):
    assert "--epochs" in fit(train, epochs=epochs, code=2).stderr


def test_no_epochs_at_all_show_the_board(train):
    assert "report" in fit(train, epochs=0).stdout


# Plugins


def test_with_adds_a_plugin_with_options_of_the_right_types(train):
    text = fit(train, "--with", "mixer:alpha=1,sizes=[2,3]").stdout

    assert "mixer 1.0 [2, 3]" in text
    assert "--with mixer" in text.partition("\n\n")[0]


def test_with_replaces_an_automatic_plugin(train):
    assert "lamp 0.75" in fit(train, "--with", "lamp:brightness=0.75").stdout


@pytest.mark.parametrize("name", ["lamp", "report"])
def test_without_leaves_out_what_is_automatic_or_in_the_program(train, name):
    board = fit(train, "--without", name).stdout.partition("\n\n")[0]

    assert name not in board


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--with", "mixr"], 'Did you mean "mixer"?'),
        (["--with", "mixer:alhpa=1"], 'Did you mean "alpha"?'),
        (["--with", "mixer:alhpa=1"], "its options: alpha, sizes"),
        (["--with", "mixer:alpha=red"], "option alpha must be float, got 'red'"),
        (["--with", "mixer:alpha"], "write name=value"),
        (["--with", "mixer"], "mixer cannot be made without alpha: float"),
        (["--with", "fit_slowly"], "is a method, not a callback"),
        (["--without", "lammp"], 'Did you mean "lamp"?'),
        (["--without", "raport"], 'Did you mean "report"?'),
        (["--with", "lamp", "--without", "lamp"], "exclude each other"),
    ],
)
def test_a_wrong_plugin_or_option_is_one_message(train, arguments, told):
    result = fit(train, *arguments, code=2)

    assert told in result.stderr
    assert "Traceback" not in result.output


def test_a_wrong_plugin_is_refused_before_the_target_is_run(train):
    assert "made by" not in fit(train, "--with", "mixr", code=2).stdout


# Schedules


def test_a_schedule_is_the_method_of_that_name(train):
    assert "slowly 2 None 0" in fit(train, "--schedule", "slowly", epochs=2).stdout


def test_a_schedule_gets_learning_rate_and_options(train):
    text = fit(train, "--schedule", "slowly:pause=3", "--lr", "0.5").stdout

    assert "slowly 1 0.5 3.0" in text


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ("slowli", 'Did you mean "slowly"?'),
        ("zigzag", "in-rounds, "),
        ("slowly:paus=1", 'Did you mean "pause"?'),
        ("in-rounds", "takes no n_epoch"),
        ("in_rounds", "takes no n_epoch"),
    ],
)
def test_a_wrong_schedule_says_which_there_are(train, schedule, told):
    assert told in fit(train, "--schedule", schedule, code=2).stderr


# Targets


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("a.py", Target("a.py", "learner", True)),
        ("dir/a.py:make", Target("dir/a.py", "make", True)),
        ("a.py:", Target("a.py", "learner", True)),
        ("C:\\dir\\a.py", Target("C:\\dir\\a.py", "learner", True)),
        ("C:\\dir\\a.py:make", Target("C:\\dir\\a.py", "make", True)),
        ("pack.mod:make", Target("pack.mod", "make", False)),
        ("pack.mod", Target("pack.mod", "learner", False)),
        (":make", Target(":make", "learner", False)),
    ],
)
def test_a_target_is_taken_apart(text, target):
    assert parse_target(text) == target


def test_a_file_in_another_folder_finds_the_modules_beside_it(train):
    folder = Path("deep")
    folder.mkdir()
    Path("train.py").rename(folder / "fine.py")
    (folder / "beside_it.py").write_text("import fine")
    source = (folder / "fine.py").read_text()
    (folder / "fine.py").write_text(source + "\nimport beside_it\n")

    text = fit("deep/fine.py").stdout

    assert text.count("made by fine") == 1
    assert sys.modules["beside_it"].fine is sys.modules["fine"]


def test_a_module_of_a_package_is_a_target(train):
    Path("pack_of_mine").mkdir()
    Path("train.py").rename("pack_of_mine/run.py")

    assert "made by pack_of_mine.run" in fit("pack_of_mine.run:learner").stdout


def test_a_file_is_a_module_so_that_a_module_plugin_may_stand_in_it(train):
    Path("with_plugin.py").write_text(
        TRAIN + "\nimport sys\n"
        "@hookimpl\ndef after_fit(learner): print('seen by the module')\n"
        "def whole(): \n"
        "    made = learner()\n"
        "    return made.add_cb(sys.modules[__name__])\n"
    )

    assert "seen by the module" in fit("with_plugin.py:whole").stdout


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("trian.py", 'trian.py does not exist. Did you mean "train.py"?'),
        ("no/such/folder/train.py", "does not exist"),
        (".", "neither a file nor the name of a module"),
        ("", "neither a file nor the name of a module"),
        ("a_module_that_nobody_has", 'There is no module "a_module_that_nobody_has"'),
        ("train.nowhere:x", 'There is no module "train.nowhere"'),
        ("train", 'train has no function "lerner"'),
        ("train.py:lerner", 'no function "lerner". Its functions: learner, two_groups'),
        ("train.py:lerner", 'Did you mean "learner"?'),
        ("train.py:nothing", "returned int, not a Learner"),
        ("train.py:an_object", "is a int and no function"),
    ],
)
def test_a_wrong_target_is_one_message_that_says_what_to_do(train, target, told):
    if target == "train":
        target = "train:lerner"

    result = fit(target, code=2)

    assert told in result.stderr
    assert "Traceback" not in result.output


def test_a_folder_is_no_target_and_none_to_suggest(train):
    Path("trains.py").mkdir()

    assert fit("trains.py", code=2).stderr.strip() == (
        'Error: trains.py is a folder. Did you mean "train.py"?'
    )


def test_a_file_named_as_a_module_that_is_imported_is_refused(train):
    Path("train.py").rename("json.py")

    assert 'would hide the module "json"' in fit("json.py", code=2).stderr


# Arguments of the factory


def test_o_sets_the_parameters_of_the_factory_by_their_types(train):
    options = ["-o", "width=3", "-o", "name=abc=d", "-o", "scale=2"]

    text = fit(train, *options).stdout

    assert "width 3 name 'abc=d' scale 2.0" in text


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("widht=3", "has no option 'widht'; its options: width, fail, name, scale. Di"),
        ("width=broad", "option width must be int"),
        ("width", "is no assignment; write key=value"),
        ("=3", "is no assignment"),
    ],
)
def test_a_wrong_o_is_one_message(train, option, told):
    assert told in fit(train, "-o", option, code=2).stderr


def test_a_parameter_that_must_be_given_is_asked_for(train):
    Path("asking.py").write_text("def learner(size: int): ...")

    assert "learner() in asking.py needs size: int" in fit("asking.py", code=2).stderr


# Bugs of the user's


def test_a_bug_in_training_keeps_its_traceback_and_exits_with_1(train, shop):
    arguments = [
        "-m",
        "callboard",
        "fit",
        "train.py",
        "--epochs",
        "1",
        "-o",
        "fail=yes",
    ]

    ran = run_python(*arguments, paths=[shop.folder], code=1)

    assert "Traceback" in ran.stderr
    assert "ZeroDivisionError: a bug in the loss" in ran.stderr
    assert "callboard: in the loop, epoch 0, training batch 0" in ran.stderr


@pytest.mark.parametrize(
    "source", ["import a_module_that_nobody_has", "def learner(): 1 / 0"]
)
def test_a_bug_in_the_target_keeps_its_traceback_and_is_placed(train, shop, source):
    Path("buggy.py").write_text(source)
    arguments = ["-m", "callboard", "fit", "buggy.py", "--epochs", "1"]

    ran = run_python(*arguments, paths=[shop.folder], code=1)

    assert "Traceback" in ran.stderr
    assert "callboard: while making the Learner of buggy.py" in ran.stderr


def test_the_traceback_of_a_bug_begins_in_the_users_code(train, shop):
    Path("buggy.py").write_text("def learner():\n    1 / 0\n")
    arguments = ["-m", "callboard", "fit", "buggy.py", "--epochs", "1"]

    ran = run_python(*arguments, paths=[shop.folder], code=1)

    assert "buggy.py" in ran.stderr
    assert "click" not in ran.stderr
    assert "importlib" not in ran.stderr


def test_a_mistake_of_the_user_in_the_program_is_one_message(train):
    source = TRAIN.replace("cbs=Report", "cbs=[Report, 'mixr']")
    Path("mistaken.py").write_text(source)

    result = fit("mistaken.py", code=2)

    assert 'Did you mean "mixer"?' in result.stderr
    assert "callboard: while making the Learner of mistaken.py" in result.stderr


@pytest.mark.filterwarnings("default")
def test_warnings_are_sentences_without_a_line_of_code(train, shop):
    shop.install(
        "shop-lamps",
        "2.0",
        plugins={"torn": "shop_torn:Torn"},
        modules={"shop_torn": "import a_module_that_nobody_has"},
    )

    lines = fit(train).stderr.splitlines()

    [warning] = [line for line in lines if "torn" in line]
    assert warning.startswith(
        "Warning: torn (shop-lamps 2.0) is installed but takes no"
    )
    assert warning.endswith("Repair or uninstall shop-lamps.")
