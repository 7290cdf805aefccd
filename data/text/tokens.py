"""Tokens: the three that every vocabulary of pairs of texts begins with, and sequences of many lengths as arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PAD, START, END = 0, 1, 2
"""Fills up what is shorter than others; stands before the first token of a target; follows the last one."""

SPECIAL = ("<pad>", "<start>", "<end>")
"""What they are called, in that order."""


def encode(text: str, vocabulary: Sequence[str]) -> list[int]:
    """The tokens of a text, one for each character.

    Raises:
        ValueError: if characters are not in the vocabulary; says which.
    """
    numbers = {character: token for token, character in enumerate(vocabulary)}
    unknown = sorted(set(text) - set(numbers))
    if unknown:
        raise ValueError(
            f"the model knows no {', '.join(map(repr, unknown))}; the characters that it was trained on are "
            f"{''.join(word for word in vocabulary if len(word) == 1)!r}"
        )
    return [numbers[character] for character in text]


def decode(tokens: Sequence[int] | np.ndarray, vocabulary: Sequence[str]) -> str:
    """The text of tokens, up to the first that ends it."""
    text = []
    for token in tokens:
        if token in (PAD, END):
            break
        text.append(vocabulary[token])
    return "".join(text)


def pad(sequences: Sequence[Sequence[int]], *, length: int = 0, multiple: int = 1) -> np.ndarray:
    """Sequences as rows, filled up at the end with `PAD`, int32 [sequence, time].

    Args:
        sequences: of tokens, of any lengths.
        length: the least time.
        multiple: the time is one of this number: batches of few different shapes are compiled few times.
    """
    longest = max([length, *map(len, sequences)])
    rows = np.full((len(sequences), -(-longest // multiple) * multiple), PAD, np.int32)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = sequence
    return rows


class Packed(NamedTuple):
    """Several sequences to a row.

    Attributes:
        tokens: int32 [row, time].
        segments: int32 [row, time]: the number of the sequence in its row, from 1, and 0 for padding. As `mask` of a
            causal Transformer it keeps sequences from seeing one another.
    """

    tokens: np.ndarray
    segments: np.ndarray


def pack(sequences: Sequence[Sequence[int]], length: int) -> Packed:
    """Sequences side by side in rows of one length, each whole and in the first row that has room for it.

    The longest come first, so that little room is left over (Johnson 1974: first fit decreasing).

    Raises:
        ValueError: if a sequence is longer than a row.
    """
    longest = max(map(len, sequences), default=0)
    if longest > length:
        raise ValueError(f"a sequence of {longest} tokens is longer than a row of {length}; cut it first")
    rows: list[list[Sequence[int]]] = []
    room: list[int] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        index = next((i for i, left in enumerate(room) if left >= len(sequence)), len(rows))
        if index == len(rows):
            rows.append([])
            room.append(length)
        rows[index].append(sequence)
        room[index] -= len(sequence)
    tokens = pad([[token for sequence in row for token in sequence] for row in rows], length=length)
    numbers = [[number for number, sequence in enumerate(row, start=1) for _ in sequence] for row in rows]
    return Packed(tokens, pad(numbers, length=length))
