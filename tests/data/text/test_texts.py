"""Texts of several classes: words and their numbers, folders, CSV files, the speakers of Shakespeare."""

from __future__ import annotations

import os

import numpy as np
import pytest

import data
from data.text.texts import UNKNOWN

CRITICS = [
    ("good", "A fine film, a FINE film!"),
    ("good", "It's a fine day"),
    ("good", "fine\nfilm"),
    ("bad", "a dull film"),
    ("bad", "dull, dull"),
    ("bad", "It's dull"),
]


@pytest.fixture
def folder(tmp_path):
    for number, (label, text) in enumerate(CRITICS):
        (tmp_path / "critics" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "critics" / label / f"{number}.txt").write_text(text)
    (tmp_path / "critics" / ".hidden").mkdir()
    return tmp_path / "critics"


def written(path, rows, header="label,text"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def texts_of(dataset, split):
    words = np.array(dataset.spec.vocabulary)
    return [" ".join(words[row[row > 0]]) for row in dataset.splits[split].arrays["tokens"]]


def test_a_folder_for_each_class(folder, caplog):
    dataset = data.load(f"texts:{folder}", length=4, test=0)
    told = "1 of 6 texts have more than 4 words, up to 8, and are cut; data_options.length=… takes more"
    assert caplog.messages == [told]
    assert dataset.spec.classes == ("bad", "good")
    # From the most frequent on, of equal ones by alphabet; "day" and "!" come once.
    assert dataset.spec.vocabulary == ("<pad>", "<unknown>", "a", "dull", "film", "fine", ",", "it's")
    found = dataset.splits["train"].arrays
    assert found["tokens"].shape == (6, 4)
    assert found["tokens"].dtype == found["label"].dtype == np.int32
    np.testing.assert_array_equal(found["label"], [0, 0, 0, 1, 1, 1])
    assert texts_of(dataset, "train")[:4] == ["a dull film", "dull , dull", "it's dull", "a fine film ,"]
    np.testing.assert_array_equal(dataset.reader.rows(["a DAY"]), [[2, UNKNOWN, 0, 0]])


def test_the_vocabulary_is_of_the_training_texts(tmp_path):
    for split, word in (("train", "seen"), ("val", "hidden"), ("test", "hidden")):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "1.txt").write_text(f"{word} {word} {label}")
    dataset = data.load(f"texts:{tmp_path}", min_count=1)
    assert dataset.spec.vocabulary == ("<pad>", "<unknown>", "seen", "a", "b")
    assert texts_of(dataset, "validation") == ["<unknown> <unknown> a", "<unknown> <unknown> b"]
    assert len(dataset.splits["test"]) == 2
    assert len(data.load(f"texts:{tmp_path}", vocab_size=3, min_count=1).spec.vocabulary) == 3


def test_a_table(tmp_path):
    rows = [f'{label}\t"{text}"' for label, text in CRITICS]
    file = written(tmp_path / "critics.tsv", rows, header="stars\treview")
    dataset = data.load(f"texts:{file}", text_column="review", label_column="stars", test=0.34, length=8)
    assert {split: len(source) for split, source in dataset.splits.items()} == {"train": 4, "test": 2}
    assert sorted(dataset.splits["test"].arrays["label"]) == [0, 1]
    assert dataset.reader.texts(file)[2] == "fine\nfilm"
    assert dataset.reader.read(file).shape == (6, 8)


def test_characters_and_scripts_without_spaces(tmp_path):
    file = written(tmp_path / "a.csv", ["1,猫が好き", "2,犬だ! ok", "1,猫だ", "2,犬が"])
    words = data.load(f"texts:{file}", test=0, min_count=1)
    assert set(words.spec.vocabulary) >= {"猫", "が", "好", "き", "犬", "だ", "!", "ok"}
    letters = data.load(f"texts:{file}", test=0, tokens="characters", lowercase=False)
    assert letters.spec.vocabulary == ("<pad>", "<unknown>", "が", "だ", "犬", "猫")


@pytest.mark.skipif("ZOO_DATA_DIR" not in os.environ, reason="needs Tiny Shakespeare in ZOO_DATA_DIR")
def test_the_speakers_of_shakespeare():
    dataset = data.load("shakespeare_speakers")
    assert len(dataset.spec.classes) == 10
    assert "Romeo" in dataset.spec.classes
    sizes = {split: len(source) for split, source in dataset.splits.items()}
    assert sizes["train"] > 3 * sizes["test"] > 3 * sizes["validation"] > 1000
    few = data.load("shakespeare_speakers", speakers=3)
    # Who else is a class changes no split.
    for split, source in few.splits.items():
        labels = dataset.splits[split].arrays["label"]
        for number, name in enumerate(few.spec.classes):
            same = (labels == dataset.spec.classes.index(name)).sum()
            assert (source.arrays["label"] == number).sum() == same
    speeches = data.load("shakespeare_speakers", unit="speech", length=64)
    assert len(speeches.splits["train"]) < sizes["train"] / 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be at least 1; got 0"),
        ({"vocab_size": 2}, "vocab_size must be at least 3; got 2"),
        ({"tokens": "syllables"}, 'tokens must be "words" or "characters"; got \'syllables\''),
        ({"min_count": 9}, "no word of the training texts comes 9 times"),
    ],
)
def test_options_are_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        data.load(f"texts:{folder}", **options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["good,n/a", "bad,"], r"lacks values; write the text.*:\n  column 'text': 1 of 2, the first in line 3$"),
        (["good,a", "None,b"], r"give each text its class:\n.* in line 3 \('None' stands for a missing one\)"),
        (["good,a", "good,b"], "has 1 class; expected two or more"),
        (["good,a,b"], "line 2 has 3 cells, and the first line names 2 columns"),
        ([], "has no rows"),
    ],
)
def test_tables_are_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        data.load(f"texts:{written(tmp_path / 'a.csv', rows)}", test=0, min_count=1)


def test_what_is_no_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no column 'text'; it has label, words; .*_options\.text_column=NAME"):
        data.load(f"texts:{written(tmp_path / 'a.csv', ['1,a'], header='label,words')}")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.csv"):
        data.load("texts:nowhere.csv")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        data.load("texts:nowhere")
    for label in ("a", "b"):
        (tmp_path / "c" / label).mkdir(parents=True)
    (tmp_path / "c" / "a" / "1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"1\.txt is not UTF-8: .* at byte 3; convert it"):
        data.load(f"texts:{tmp_path / 'c'}")
    (tmp_path / "c" / "a" / "1.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"there is no text in .*1\.txt; take them out"):
        data.load(f"texts:{tmp_path / 'c'}")
    (tmp_path / "c" / "a" / "1.txt").write_text("cafe")
    with pytest.raises(ValueError, match=r"the class 'b' is empty: there is no \.txt file in"):
        data.load(f"texts:{tmp_path / 'c'}")


def test_a_vocabulary_that_is_given(folder):
    words = ["<pad>", "<unknown>", "film", "dull"]
    dataset = data.load(f"texts:{folder}", length=4, test=0, vocabulary=words)
    assert dataset.spec.vocabulary == dataset.reader.vocabulary == tuple(words)
    np.testing.assert_array_equal(dataset.splits["train"].arrays["tokens"][0], [UNKNOWN, 3, 2, 0])
    for wrong, message in (
        (["film", "dull"], r"a vocabulary begins with '<pad>', '<unknown>'; got \('film', 'dull'\)"),
        ([*words, "film"], "each word of a vocabulary comes once; got several times film"),
    ):
        with pytest.raises(ValueError, match=message):
            data.load(f"texts:{folder}", vocabulary=wrong)
