"""Encoding, padding and packing."""

import numpy as np
import pytest

from data.text import tokens

VOCABULARY = (*tokens.SPECIAL, "a", "b", " ")


def test_there_and_back():
    assert tokens.encode("ab ba", VOCABULARY) == [3, 4, 5, 4, 3]
    assert tokens.decode([3, 4, 5, 4, 3, tokens.END, 4], VOCABULARY) == "ab ba"
    assert tokens.decode(np.array([3, tokens.PAD, 4]), VOCABULARY) == "a"
    assert VOCABULARY[tokens.PAD] == "<pad>"
    assert VOCABULARY[tokens.START] == "<start>"
    assert VOCABULARY[tokens.END] == "<end>"


def test_characters_that_are_not_there_are_named():
    with pytest.raises(ValueError, match=r"the model knows no '!', 'x'; the characters .* are 'ab '"):
        tokens.encode("xa!", VOCABULARY)


@pytest.mark.parametrize(
    ("options", "time"), [({}, 3), ({"length": 5}, 5), ({"multiple": 4}, 4), ({"length": 5, "multiple": 4}, 8)]
)
def test_padding(options, time):
    rows = tokens.pad([[5, 6, 7], [], [8]], **options)
    assert rows.dtype == np.int32
    assert rows.tolist() == [[5, 6, 7] + [0] * (time - 3), [0] * time, [8] + [0] * (time - 1)]


def test_packing_keeps_every_sequence_whole():
    rng = np.random.default_rng(0)
    sequences = [list(rng.integers(3, 9, rng.integers(1, 9))) for _ in range(50)]
    packed = tokens.pack(sequences, 10)
    found = [
        row[numbers == number].tolist()
        for row, numbers in zip(packed.tokens, packed.segments, strict=True)
        for number in range(1, numbers.max() + 1)
    ]
    assert sorted(found) == sorted(sequences)
    assert ((packed.segments > 0) == (packed.tokens > 0)).all()
    steps = np.diff(np.where(packed.segments == 0, 99, packed.segments), axis=1)
    assert (steps >= 0).all(), "side by side, and the padding last"
    assert len(packed.tokens) <= 1.25 * sum(map(len, sequences)) / 10


def test_what_does_not_fit_a_row():
    with pytest.raises(ValueError, match="a sequence of 4 tokens is longer than a row of 3; cut it first"):
        tokens.pack([[3], [3, 4, 5, 6]], 3)


def test_the_longest_are_packed_first():
    """Else the short ones would fill rows of their own."""
    packed = tokens.pack([[3] * n for n in (2, 2, 2, 4, 4, 4)], 6)
    assert packed.segments.tolist() == [[1, 1, 1, 1, 2, 2]] * 3
