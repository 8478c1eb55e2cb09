"""Every block of Python in the documentation runs, and every command can be read."""

import re
import shlex
import warnings
from pathlib import Path

import click
import pytest
from tests.scenes import scene_of

from callboard.cli import main

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs/*.md", "docs/guides/*.md", "docs/explanation/*.md")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in [
        ROOT / "README.md",
        *sorted(path for folder in FOLDERS for path in ROOT.glob(folder)),
        *sorted(ROOT.glob("plugins/*/README.md")),
    ]
}
# What joins by being installed, with callboard[standard].
STANDARD = ["callboard-recorder", "callboard-progress"]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Pages whose code runs only where the client of a service is installed.
CLIENTS = {"plugins/mlflow/README.md": "mlflow", "plugins/wandb/README.md": "wandb"}
# Python that is shown and not run is marked `py`: how often on which page, and why.
NOT_RUN = {
    "docs/coming-from-fastai.md": (3, "fastai's code, for comparison"),
    "docs/coming-from-lightning.md": (1, "Lightning's code, for comparison"),
    "docs/coming-from-trainer.md": (1, "transformers' code, for comparison"),
    "plugins/azure-ml/README.md": (1, "needs a workspace on Azure"),
    "plugins/comet/README.md": (1, "needs an account"),
    "plugins/compile/README.md": (1, "compiles for more than ten seconds"),
    "plugins/vision/README.md": (1, "needs torchvision, timm and a file of weights"),
}


def blocks(text, language):
    """The blocks of one language."""
    return [block for found, block in BLOCK.findall(text) if found == language]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(PAGES[p], "python")])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    if page in CLIENTS:
        pytest.importorskip(CLIENTS[page])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CALLBOARD_AUTOLOAD")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "callboard.toml").write_text(f"allow = {STANDARD}\n")
    names = scene_of(page)

    with warnings.catch_warnings():
        # A tiny run may warn, as of a stop that a tracker cannot reach.
        warnings.simplefilter("ignore")
        for number, block in enumerate(blocks(PAGES[page], "python"), 1):
            exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_exist_with_their_options(page):
    for block in [*blocks(PAGES[page], "sh"), *blocks(PAGES[page], "console")]:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"\w+=\S+", words[0]):  # the environment
                words = words[1:]
            if "callboard" in words[:1]:
                check_command(words[1:], line)


def check_command(words, line):
    """Fail unless the command line has this command and these options."""
    command, context = main, click.Context(main, info_name="callboard")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, line
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    known.add("--help")
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert used <= known, line


def test_code_that_is_not_run_is_marked_and_counted():
    counts = {page: len(blocks(text, "py")) for page, text in PAGES.items()}

    assert {page: count for page, count in counts.items() if count} == {
        page: count for page, (count, _) in NOT_RUN.items()
    }


def test_every_block_names_its_language():
    bare = [page for page, text in PAGES.items() if blocks(text, "")]

    assert bare == []
