"""Files are written whole or not at all, and JSON is JSON."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from train.files import as_json, write_whole
from train.measure.pictures import grid


def test_a_file_is_replaced_by_a_whole_one(tmp_path):
    for content in ("first é", b"second"):
        write_whole(tmp_path / "a.txt", content)
        assert (tmp_path / "a.txt").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    write_whole(tmp_path / "a.txt", "good")
    whole = Path.write_bytes

    def full(self, content):
        whole(self, content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"a\.txt cannot be written: No space left on device") as caught:
        write_whole(tmp_path / "a.txt", "better")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match=r"b\.png cannot be written: No space left on device"):
        grid(np.zeros((1, 2, 2, 1)), tmp_path / "b.png")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "good")]


def test_json_has_no_word_for_what_is_not_finite():
    value = {"a": [1.5, float("nan"), {"b": float("-inf")}], "c": (True, None, "x")}
    assert json.loads(as_json(value)) == {"a": [1.5, None, {"b": None}], "c": [True, None, "x"]}
