"""Texts as windows of tokens: the characters come back, the parts do not touch, and bad files are told."""

import hashlib

import numpy as np
import pytest

import data
from data.text import characters as texts

TEXT = "".join(f"Zeile {number}: größer als {number // 2}…\n" for number in range(40))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


def written(dataset, split):
    """The windows of a split as strings."""
    source = dataset.splits[split]
    batch = dataset.preprocess(source[np.arange(len(source))])
    assert set(batch) == set(dataset.spec.fields) == {"tokens"}
    assert batch["tokens"].dtype == np.int32
    return ["".join(dataset.spec.vocabulary[token] for token in row) for row in batch["tokens"]]


def test_windows_are_pieces_of_the_text(file):
    dataset = data.load(f"text:{file}", length=8)
    assert dataset.spec.vocabulary == tuple(sorted(set(TEXT)))
    assert dataset.spec.fields["tokens"].shape == (9,)
    first, second = len(TEXT) * 90 // 100, len(TEXT) * 95 // 100
    assert written(dataset, "train") == [TEXT[i : i + 9] for i in range(first - 8)]
    for split, part in (("validation", TEXT[first:second]), ("test", TEXT[second:])):
        windows = written(dataset, split)
        assert windows == [part[i : i + 9] for i in range(0, len(part) - 8, 8)]
        targets = "".join(window[1:] for window in windows)
        assert part[1:].startswith(targets), "each target once"
        assert len(part) - 1 - len(targets) < 8


def test_a_text_takes_a_byte_a_character_and_two_where_it_must(tmp_path):
    for characters, dtype in ((256, np.uint8), (257, np.uint16)):
        path = tmp_path / str(characters)
        path.write_text("".join(map(chr, range(1000, 1000 + characters))) * 2)
        dataset = data.load(f"text:{path}", length=5)
        assert dataset.splits["train"].arrays["text"].dtype == dtype
        assert written(dataset, "train")[0] == "".join(map(chr, range(1000, 1006)))


def test_a_mark_of_the_byte_order_is_no_character(tmp_path):
    path = tmp_path / "marked.txt"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert data.load(f"text:{path}", length=8).spec.vocabulary == tuple(sorted(set(TEXT)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"text\.txt is empty"),
        (b"gr\xc3\xb6\xdfer" * 100, r"text\.txt is not UTF-8: .* at byte 4 \(0xdf\)"),
        (b"to be or not to be " * 10, r"too short: of its 190 characters 9 are .* length 9 takes 10"),
    ],
)
def test_bad_files_are_told(file, content, message):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.load(f"text:{file}", length=9)


def test_bad_requests_are_told(file):
    with pytest.raises(ValueError, match="length must be at least 1; got 0"):
        data.load(f"text:{file}", length=0)
    with pytest.raises(FileNotFoundError, match=r"no text file /.*nowhere/at/all"):
        data.load("text:nowhere/at/all")
    with pytest.raises(ValueError, match="'text' needs a path: text:PATH"):
        data.load("text")
    with pytest.raises(ValueError, match="leave validation at 0"):
        data.load(f"text:{file}", length=8, validation=0.1)


@pytest.fixture
def plays(tmp_path, monkeypatch):
    """A text in the place of Tiny Shakespeare's."""
    folder = tmp_path / "zoo" / "tiny_shakespeare"
    folder.mkdir(parents=True)
    (folder / "input.txt").write_bytes(TEXT.encode())
    monkeypatch.setattr(texts, "SHA256", {"input.txt": hashlib.sha256(TEXT.encode()).hexdigest()})
    monkeypatch.setattr(texts, "URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path / "zoo"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return folder / "input.txt"


def test_tiny_shakespeare_is_found_and_verified(plays, monkeypatch, tmp_path):
    assert written(data.load("tiny_shakespeare", length=8), "train")[0] == TEXT[:9]
    downloads = tmp_path / "tfds" / "downloads" / "tiny_shakespeare"
    downloads.mkdir(parents=True)
    (downloads / "input.txt").write_bytes(plays.read_bytes())
    plays.write_bytes(b"To be, or not to be")
    with pytest.raises(ValueError, match=r"input\.txt is not the original file; get it anew from http"):
        data.load("tiny_shakespeare")
    plays.unlink()
    with pytest.raises(FileNotFoundError, match=r"input\.txt is missing; get it from http"):
        data.load("tiny_shakespeare")
    monkeypatch.delenv("ZOO_DATA_DIR")
    assert len(data.load("tiny_shakespeare", length=8).spec.vocabulary) == len(set(TEXT))
    (downloads / "input.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"put them into a folder 'tiny_shakespeare' .* ZOO_DATA_DIR names"):
        data.load("tiny_shakespeare")
