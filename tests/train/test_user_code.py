"""A user's own code: how it is imported, once, and what is remembered of it."""

from __future__ import annotations

import hashlib
import sys

import pytest

import zoo
from train.user_code import Code, import_code, source_of


@pytest.fixture(autouse=True)
def forgotten(monkeypatch, tmp_path):
    """What a test imports, and where it looks, is forgotten after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.chdir(tmp_path)


def test_a_file_is_imported_once(tmp_path):
    (tmp_path / "theirs.py").write_text("value = object()\n")
    module = import_code("theirs.py")
    assert import_code(str(tmp_path / "theirs.py")) is module is import_code("theirs")


def test_a_file_imports_its_neighbours_from_anywhere(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "first.py").write_text("from second_of_theirs import value\n")
    (folder / "second_of_theirs.py").write_text("value = 3\n")
    assert import_code("folder/first.py").value == 3


@pytest.mark.parametrize("name", ["train", "json", "zoo"])
def test_a_file_with_the_name_of_another_module_replaces_it_nowhere(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("mine = 1\n")
    before = sys.modules.get(name)
    assert import_code(f"{name}.py").mine == 1
    assert sys.modules.get(name) is before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = c\n", "bad.py cannot be imported: line 2: NameError: name 'c' is not defined"),
        ("import nothing_of_this_name\n", "line 1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("a = (\n", "bad.py cannot be imported: SyntaxError: '\\(' was never closed"),
        ("raise SystemExit(3)\n", "bad.py ends the program when it is imported; put that under __main__"),
    ],
)
def test_code_that_fails_says_where(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    for _ in range(2):  # a module that failed is not taken for imported
        with pytest.raises(ImportError, match=message):
            import_code("bad.py")


def test_code_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"there is no file none\.py"):
        import_code("none.py")
    with pytest.raises(ImportError, match=r"there is no module 'none_such'; a file is given with its ending, \.py"):
        import_code("none_such")


def test_what_is_remembered(tmp_path):
    text = "def builder(): ...\n"
    (tmp_path / "theirs_too.py").write_text(text)
    builder = import_code("theirs_too.py").builder
    digest = hashlib.sha256(text.encode()).hexdigest()
    file = str(tmp_path / "theirs_too.py")
    assert source_of(builder, "model x") == Code("model x", "theirs_too", file, digest)
    assert source_of(zoo.resnet.ResNet, "model resnet18") is None
    exec("def shell(): ...", names := {"__name__": "__main__"})
    assert source_of(names["shell"], "task y")[:2] == ("task y", "__main__")
