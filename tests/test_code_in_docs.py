"""Every block of Python in the documentation runs, and every command can be read."""

import re
import shlex
import warnings
from pathlib import Path

import click
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callboard.cli import main

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
}
READMES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in sorted(ROOT.glob("plugins/*/README.md"))
}
# What joins by being installed, with callboard[standard].
STANDARD = ["callboard-recorder", "callboard-progress"]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text, language):
    """The blocks of one language; those of other frameworks are ``py``, and not run."""
    return [block for found, block in BLOCK.findall(text) if found == language]


def what_pages_take_for_granted():
    """Data, a model and a loss, as small as can be."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(32, 4), torch.arange(32) % 3)
    train_loader, valid_loader = DataLoader(data, 8), DataLoader(data, 16)
    return {
        "train": train_loader,
        "valid": valid_loader,
        "train_loader": train_loader,
        "valid_loader": valid_loader,
        "dls": (train_loader, valid_loader),
        "model": nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)),
        "loss_func": nn.CrossEntropyLoss(),
    }


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(PAGES[p], "python")])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CALLBOARD_AUTOLOAD")
    (tmp_path / "callboard.toml").write_text(f"allow = {STANDARD}\n")
    names = {"__name__": "a_page", **what_pages_take_for_granted()}

    with warnings.catch_warnings():
        # A tiny run may warn, as of a stop that a tracker cannot reach.
        warnings.simplefilter("ignore")
        for number, block in enumerate(blocks(PAGES[page], "python"), 1):
            exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", READMES)
def test_the_python_of_a_readme_can_be_read(page):
    for number, block in enumerate(blocks(READMES[page], "python"), 1):
        compile(block, f"{page}, block {number}", "exec")


@pytest.mark.parametrize("page", [*PAGES, *READMES])
def test_the_commands_of_a_page_exist_with_their_options(page):
    text = {**PAGES, **READMES}[page]
    for block in blocks(text, "sh"):
        joined = block.replace("\\\n", " ")
        for line in joined.splitlines():
            words = shlex.split(line, comments=True)
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


def test_code_of_other_frameworks_stands_on_the_pages_about_them_only():
    foreign = {page for page, text in PAGES.items() if blocks(text, "py")}

    assert foreign == {page for page in PAGES if "coming-from" in page}
