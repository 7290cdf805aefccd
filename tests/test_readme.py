"""What the README and the pages of `docs/` say is so: their code runs, and their tables agree with the registries."""

import ast
import fnmatch
import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import data
import train.recipes
import zoo
from tests import readme_tables
from tests.train.cli.command import python
from train import cli, tasks
from train import recipe as recipe_module
from train.recipe import list_recipes

ROOT = Path(__file__).parents[1]

README = (ROOT / "README.md").read_text()

WRITTEN = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "guide").glob("*.md")])
"""The pages of the site that are not made when it is built."""

PAGES = {"README": README, **{path.stem: path.read_text() for path in WRITTEN}}

BLOCKS = {name: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for name, text in PAGES.items()}

OUTCOMES = {
    "README": lambda known: known["fitted"].history[-1]["validation_accuracy"] > 0.9,
    "index": lambda known: known["fitted"].history[-1]["validation_accuracy"] > 0.9,
    "install": lambda known: known["logits"].shape == (8, 10),
    "library": lambda known: (
        known["features"].num_classes == 0
        and set(known["seen"]["intermediates"]) >= {"stage1", "stage4"}
        and known["fitted"].history[-1]["validation_accuracy"] > 0.9
        and known["report"]["test_accuracy"] > 0.9
        and known["logits"].shape == (2, 10)
    ),
    "training": lambda known: 1e-5 < known["rate"].suggestion < 1 and known["check"].ok,
    "search": lambda known: len(known["trained"]) == 12,
    "your-own": lambda known: (
        (int(known["state"].step), len(known["history"])) == (2 * 3, 2)
        and set(known["mine"].splits) == {"train", "validation", "test"}
    ),
    "weights": lambda known: known["logits"].shape == (2, 1, 65),
    "data": lambda known: known["batch"]["image"].shape == (4, 8, 8, 1),
    "transfer": lambda known: known["frozen"],
    "text": lambda known: known["continued"].shape == (2, 200) and len(known["several"]) == 2,
    "graphs": lambda known: known["logits"].shape == (8, 2),
    "neural-odes": lambda known: abs(float(known["solution"].values[-1].mean()) - 0.1353) < 1e-3,
}
"""What must be true of the names that a page's code leaves."""

NEED_A_RUN = "digits.stablehlo"
"""A block with this word starts from a trained run: see train/cli/test_using.py."""


def test_every_page_with_code_has_an_outcome():
    assert set(OUTCOMES) == {
        name for name, blocks in BLOCKS.items() if any(NEED_A_RUN not in block for block in blocks)
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", OUTCOMES)
def test_the_python_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    """With no name but what they define themselves."""
    monkeypatch.chdir(tmp_path)
    known = {"__name__": page}
    registries = (zoo.registry, "_builders"), (zoo.registry, "_cards"), (data.registry, "_BUILDERS"), (tasks, "TASKS")
    for module, table in (*registries, (recipe_module, "_recipes")):  # what a page registers is gone afterwards
        monkeypatch.setattr(module, table, dict(getattr(module, table)))
    for block in BLOCKS[page]:
        if NEED_A_RUN not in block:
            exec(block, known)
    assert OUTCOMES[page](known)


@pytest.mark.slow
def test_the_file_of_ones_own_trains(tmp_path):
    (block,) = (block for block in BLOCKS["your-own"] if block.startswith("# my_digits.py"))
    (tmp_path / "my_digits.py").write_text(block)
    done = python("-m", "zoo", "train", "my_digits.py", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test_accuracy"] > 0.9
    done = python("-m", "zoo", "evaluate", "runs/my_recipe", "--import", "my_digits.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_tables_are_as_they_are_written():
    """From the registry and the recorded runs: `python -m tests.readme_tables` writes them anew."""
    assert readme_tables.written(README) == README


def test_modules_are_imported_by_the_names_that_the_reference_has():
    """`train.freezing`, not `train.optim.freezing`; in notebooks too."""
    told = {**PAGES, **{path.stem: path.read_text() for path in (ROOT / "notebooks").glob("[0-9]*.py")}}
    long = "|".join(map(re.escape, train.SHORT.values()))
    found = {name: re.findall(rf"^ *(?:from|import) train\.(?:{long})\b.*", text, re.M) for name, text in told.items()}
    assert not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_stands_in_the_table(name):
    """With what it reached: per cent right, or for recipes that make images a figure and what it is of."""
    row = rf"^\| `{name}` \|[^|]+\|[^|]+\|[^|]*\d[^|]*\|$"
    assert re.search(row, README, re.MULTILINE), f"write a row: | `{name}` | model and data | time | what it reached |"


@pytest.mark.parametrize("pattern", readme_tables.PARITY)
def test_what_the_table_says_of_parity_is_what_a_test_says(pattern):
    parity = readme_tables.PARITY[pattern]
    file, _, name = parity.test.partition("::")
    source = (Path(__file__).parent / "parity" / f"{file}.py").read_text()
    functions = {node.name: ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    helpers = [
        text for function, text in functions.items() if function.startswith("assert_") and function in functions[name]
    ]
    assert any(str(float(parity.bound)) in text for text in [functions[name], *helpers])
    assert fnmatch.filter(zoo.list_models(), pattern)


def commands() -> list[str]:
    """Those of indented blocks, and of blocks that are marked as sh."""
    shown = [block for text in PAGES.values() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]
    lines = [*re.findall(r"^    (zoo .*)", README, re.MULTILINE), *re.sub(r"\\\n *", "", "".join(shown)).splitlines()]
    return sorted({re.sub(r"  +#.*", "", line) for line in lines if line.startswith("zoo ")})


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood(command, monkeypatch):
    """The arguments parse: the functions behind them are replaced by ones that do nothing."""
    words = shlex.split(command)[1:]
    called = []

    def instead(function):
        @functools.wraps(function)
        def note(*args, **kwargs):
            called.append(function.__name__)

        return note

    monkeypatch.setattr("train.user_code.import_code", called.append)
    monkeypatch.setattr(cli, "COMMANDS", {name: instead(function) for name, function in cli.COMMANDS.items()})
    cli.main(words)
    assert called


def test_links_that_lead_nowhere_are_found(tmp_path):
    """Of the site: `docs/check_links.py` looks at what was built."""
    other = '<a href="index.html#there">1</a><a href="index.html#gone">2</a><a href="gone.html">3</a><img src="no.png">'
    (tmp_path / "index.html").write_text(
        '<p id="there"></p><a href="https://docs.jax.dev">out</a><a href="#there">in</a>'
    )

    def check():
        return subprocess.run(
            [sys.executable, str(ROOT / "docs" / "check_links.py"), str(tmp_path)], capture_output=True, text=True
        )

    assert (check().returncode, check().stderr) == (0, "")
    (tmp_path / "other.html").write_text(other)
    found = check()
    assert found.returncode == 1
    assert found.stderr.split() == [
        "other.html:",
        "index.html#gone",
        "other.html:",
        "gone.html",
        "other.html:",
        "no.png",
    ]
