"""The first answer, `pytest -m "not slow"`, is to be short, and still says something of every wing and model.

What takes long and is not marked is named where it ran, `tests/conftest.py`, and is an error of `.ci/run`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
WINGS = sorted({path.parent for path in TESTS.glob("*/**/test_*.py")} - {TESTS / "parity"})


def is_slow(node: ast.AST) -> bool:
    return "pytest.mark.slow" in ast.unparse(node)


def of_first_answer(path: Path) -> list[str]:
    """The test functions of a file that are not marked slow as a whole."""
    body = ast.parse(path.read_text()).body
    if any(
        isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark" and is_slow(node) for node in body
    ):
        return []
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return [
        node.name
        for node in functions
        if not any(ast.unparse(each) == "pytest.mark.slow" for each in node.decorator_list)
    ]


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: str(wing.relative_to(TESTS)))
def test_of_every_wing(wing):
    """`tests/parity` compares with libraries whose import alone takes seconds, and is marked as a whole."""
    assert [name for path in wing.glob("test_*.py") for name in of_first_answer(path)]


def test_of_every_model():
    assert {"test_exact_parameter_count", "test_types_and_shapes"} <= set(of_first_answer(TESTS / "zoo/test_models.py"))
