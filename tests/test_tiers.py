"""Three tiers: `pytest -m "not slow"` is a first answer, plain `pytest` all that is telling, `.ci/run` everything.

The first answer is short, and still says something of every wing and model; plain `pytest` leaves out what is marked
exhaustive, and goes through every model and recipe. What takes long and is not marked slow is named where it ran,
`tests/conftest.py`, and is an error of `.ci/run`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
WINGS = sorted({path.parent for path in TESTS.glob("*/**/test_*.py")} - {TESTS / "parity"})


def is_slow(node: ast.AST) -> bool:
    return "pytest.mark.slow" in ast.unparse(node)


def decorators(path: Path) -> dict[str, list[str]]:
    """Of the test functions of a file."""
    body = ast.parse(path.read_text()).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {node.name: [ast.unparse(each) for each in node.decorator_list] for node in functions}


def of_first_answer(path: Path) -> list[str]:
    """The test functions of a file that are not marked slow as a whole."""
    body = ast.parse(path.read_text()).body
    if any(
        isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark" and is_slow(node) for node in body
    ):
        return []
    return [
        name
        for name, marks in decorators(path).items()
        if not {"pytest.mark.slow", "pytest.mark.exhaustive"} & {*marks}
    ]


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: str(wing.relative_to(TESTS)))
def test_of_every_wing(wing):
    """`tests/parity` compares with libraries whose import alone takes seconds, and is marked as a whole."""
    assert [name for path in wing.glob("test_*.py") for name in of_first_answer(path)]


def test_of_every_model():
    assert {"test_exact_parameter_count", "test_types_and_shapes"} <= set(of_first_answer(TESTS / "zoo/test_models.py"))


def test_plain_pytest_goes_through_every_model_and_recipe():
    of_models = decorators(TESTS / "zoo/test_models.py")
    for name in ("test_init_and_forward", "test_the_gradient_reaches_every_parameter"):
        assert of_models[name] == ["pytest.mark.slow", "every_model"]
    built, recipes = decorators(TESTS / "train/runs/test_recipe.py")["test_every_recipe_builds"]
    assert built == "pytest.mark.slow"
    assert "list_recipes()" in recipes
    assert "exhaustive" not in recipes


def test_nothing_of_parity_is_exhaustive():
    """No call would run it: `pytest -m exhaustive` leaves those files out, see `tests/parity/conftest.py`."""
    for path in (TESTS / "parity").glob("*.py"):
        assert not any(mark in path.read_text() for mark in ("mark.exhaustive", "by_representatives")), path
