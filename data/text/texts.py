"""Texts of several classes, as rows of tokens: words that are learned from the training texts, or characters."""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from data.dataset import ArraySource, Dataset, Field, Source, Spec
from data.pipeline import TEST_SEED, held_out
from data.places import class_folders, find_file, find_folder, split_folders
from data.registry import register
from data.table_file import ENDINGS, TableFile
from data.text.characters import shakespeare
from data.text.tokens import PAD, SPECIAL, pad

UNKNOWN = 1
"""Stands for a word that is not in the vocabulary."""

_LOG = logging.getLogger(__name__)

_FIRST = (SPECIAL[PAD], "<unknown>")

Tokens = Literal["words", "characters"]

_WORD = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]|[^\W_]+(?:['’][^\W_]+)*|[^\w\s]|_+")
"""A word with what an apostrophe joins to it, a mark, or a letter of a script that has no spaces between words."""

_ENDING = ".txt"

_SHOWN = 5
"""The most problems that an error lists."""


@dataclass(frozen=True)
class TextReader:
    """How a text becomes a row of tokens.

    Attributes:
        vocabulary: what each token stands for: padding, what is unknown, then words from the most frequent on.
        length: tokens in a row; what is longer is cut, what is shorter is padded.
        tokens: "words" or "characters".
        lowercase: whether capitals count as small letters.
        column: the column of a CSV file that holds the texts.
    """

    vocabulary: tuple[str, ...]
    length: int
    tokens: Tokens = "words"
    lowercase: bool = True
    column: str = "text"

    @classmethod
    def of(cls, **options: Any) -> TextReader:
        """A reader from options as JSON has them, with lists in the place of tuples."""
        return cls(**{**options, "vocabulary": tuple(options["vocabulary"])})

    @classmethod
    def trained(cls, texts: Sequence[str], vocab_size: int, min_count: int, **options: Any) -> TextReader:
        """A reader whose vocabulary is the most frequent words of texts; of equal ones the first by alphabet.

        Raises:
            ValueError: if no word comes often enough.
        """
        untrained = cls((), **options)
        counts = Counter(piece for text in texts for piece in untrained.pieces(text))
        known = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
        if not known:
            raise ValueError(f"no word of the training texts comes {min_count} times; take a smaller min_count")
        return cls((*_FIRST, *known[: vocab_size - 2]), **options)

    @property
    def shape(self) -> tuple[int]:
        """(time,) of one text."""
        return (self.length,)

    def pieces(self, text: str) -> list[str]:
        """The words or characters of a text."""
        text = text.lower() if self.lowercase else text
        return _WORD.findall(text) if self.tokens == "words" else list(text)

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of texts, int32 [text, time].

        Raises:
            ValueError: if a text has no word.
        """
        number = {word: token for token, word in enumerate(self.vocabulary)}
        found = [[number.get(piece, UNKNOWN) for piece in self.pieces(text)[: self.length]] for text in texts]
        if empty := [repr(text[:40]) for text, row in zip(texts, found, strict=True) if not row]:
            raise ValueError(f"a text without a word says nothing: {_some(empty)}")
        return pad(found, length=self.length) if found else np.zeros((0, self.length), np.int32)

    def texts(self, path: str | os.PathLike[str]) -> list[str]:
        """The texts in a file: one for each row of a table (.csv, .tsv) with the reader's column, else the whole file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not UTF-8, a table without that column, or if a text has no word.
        """
        file = Path(path)
        if file.suffix.lower() not in ENDINGS:
            return _texts_of([file])
        table = TableFile.read(file)
        table.require_columns([self.column])
        _require_texts(table, self.column)
        return table.column(self.column)

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Tokens of the texts in a file, int32 [text, time]; see `texts`."""
        return self.rows(self.texts(path))


@register("texts")
def texts(
    path: str,
    *,
    length: int = 128,
    tokens: Tokens = "words",
    vocab_size: int = 20_000,
    min_count: int = 2,
    lowercase: bool = True,
    vocabulary: Sequence[str] | None = None,
    text_column: str = "text",
    label_column: str = "label",
    test: float | int | None = None,
) -> Dataset:
    """Texts and their classes, asked for as `texts:PATH`: a folder for each class, or a table with text and label.

    A folder holds `PATH/CLASS/*.txt`, or `PATH/SPLIT/CLASS/*.txt` with the splits train, validation (or val) and test.
    Where there is no test split, a fifth of each class is taken out for it. The vocabulary is learned from the other
    texts: words and marks, or characters.

    Args:
        path: of the folder or the table (.csv, .tsv), in UTF-8; looked for in `ZOO_DATA_DIR` too.
        length: tokens that a model sees of a text; what is longer is cut, and it is told of how many texts.
        tokens: "words" or "characters".
        vocab_size: most tokens, with those for padding and for unknown words.
        min_count: how often a word must come to be known.
        lowercase: whether capitals count as small letters.
        vocabulary: what each token stands for, from that of padding on, in place of what the training texts have. A
            recipe with `weights` takes it from there.
        text_column: the column of the texts in a table.
        label_column: the column of their classes there.
        test: share or number of texts of the test split, where there are no folders for splits; 0.2 by default.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if there are fewer than two classes, an empty text, or a file that is not UTF-8.
    """
    where = find_file(path) if Path(path).suffix.lower() in ENDINGS else find_folder(path)
    if where.is_dir():
        splits = _of_folder(where)
    else:
        table = TableFile.read(where)
        advice = "; say which they are: data_options.text_column=NAME data_options.label_column=NAME"
        table.require_columns([text_column, label_column], advice)
        _require_texts(table, text_column)
        table.require_values([label_column], "give each text its class")
        splits = {"train": list(zip(table.column(text_column), table.column(label_column), strict=True))}
    if test is not None and "test" in splits:
        raise ValueError(f"test={test} makes a test split where there is none, but {path} has one")
    options = {"length": length, "tokens": tokens, "lowercase": lowercase, "column": text_column}
    words = _Words(vocabulary, vocab_size, min_count)
    built = _build(f"texts:{path}", splits, str(where), 0.2 if test is None else test, words, options)
    assert isinstance(built.reader, TextReader)
    _tell_of_cut(built.reader, [text for examples in splits.values() for text, _ in examples])
    return built


@register("shakespeare_speakers")
def shakespeare_speakers(
    *,
    speakers: int = 10,
    unit: Literal["line", "speech"] = "line",
    length: int = 16,
    tokens: Tokens = "words",
    vocab_size: int = 20_000,
    min_count: int = 2,
    lowercase: bool = True,
    vocabulary: Sequence[str] | None = None,
) -> Dataset:
    """Who says it: what the speakers with the most words in Tiny Shakespeare say, see `tiny_shakespeare` for the file.

    Of the speeches of each a tenth is the validation split and a fifth the test split, whoever else is a class; lines
    of one speech stay together.

    Args:
        speakers: how many of them; they are the classes.
        unit: whether an example is a "line" of print, or a whole "speech".
        length: as for `texts`, and so the rest.
        tokens: "words" or "characters".
        vocab_size: most tokens.
        min_count: how often a word must come to be known.
        lowercase: whether capitals count as small letters.
        vocabulary: as for `texts`.
    """
    if unit not in ("speech", "line"):
        raise ValueError(f'unit must be "speech" or "line"; got {unit!r}')
    content, where = shakespeare()

    def parts(body: str, who: str) -> list[tuple[str, str]]:
        return [(part, who) for part in ([body] if unit == "speech" else body.splitlines()) if part.strip()]

    speeches: dict[str, list[str]] = {}
    for speech in content.decode().split("\n\n"):
        head, _, body = speech.strip().partition("\n")
        if head.endswith(":") and body.strip():
            speeches.setdefault(head[:-1].title(), []).append(body)
    words = Counter({who: sum(len(body.split()) for body in said) for who, said in speeches.items()})
    if not 2 <= speakers <= len(words):
        raise ValueError(f"speakers must be 2 to {len(words)}; got {speakers}")
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for who, _ in words.most_common(speakers):
        said = speeches[who]
        order = np.random.default_rng([TEST_SEED, zlib.crc32(who.encode())]).permutation(len(said))
        for rank, row in enumerate(order):
            split = "test" if rank < len(said) // 5 else "validation" if rank < len(said) * 3 // 10 else "train"
            splits[split] += parts(said[row], who)
    options = {"length": length, "tokens": tokens, "lowercase": lowercase}
    words = _Words(vocabulary, vocab_size, min_count)
    return _build("shakespeare_speakers", splits, where, 0, words, options)


class _Words(NamedTuple):
    """Which words are known: those of a vocabulary that is given, or the most frequent of the training texts."""

    given: Sequence[str] | None
    most: int
    min_count: int

    def reader(self, texts: Sequence[str], **options: Any) -> TextReader:
        if self.given is None:
            return TextReader.trained(texts, self.most, self.min_count, **options)
        if (special := tuple(self.given[:2])) != _FIRST:
            raise ValueError(f"a vocabulary begins with {', '.join(map(repr, _FIRST))}; got {special}")
        if len(set(self.given)) < len(self.given):
            twice = [word for word, count in Counter(self.given).items() if count > 1]
            raise ValueError(f"each word of a vocabulary comes once; got several times {_some(twice)}")
        return TextReader(tuple(self.given), **options)


def _build(
    name: str,
    splits: dict[str, list[tuple[str, str]]],
    where: str,
    test: float | int,
    words: _Words,
    options: dict[str, Any],
) -> Dataset:
    """A data set from the texts of each split and their classes."""
    if options["tokens"] not in get_args(Tokens):
        raise ValueError(f'tokens must be "words" or "characters"; got {options["tokens"]!r}')
    for option, value, least in (("length", options["length"], 1), ("vocab_size", words.most, 3)):
        if value < least:
            raise ValueError(f"{option} must be at least {least}; got {value}")
    classes = tuple(sorted({label for _, label in splits["train"]}))
    if len(classes) < 2:
        few = f"{where} has {len(classes)} class{'' if len(classes) == 1 else 'es'}; expected two or more"
        raise ValueError(f"{few}: PATH/CLASS/*.txt or PATH/train/CLASS/*.txt" if Path(where).is_dir() else few)
    for split, examples in splits.items():
        if others := sorted({label for _, label in examples} - set(classes)):
            raise ValueError(f"the {split} split of {where} has classes that train has not: {_some(others)}")
    number = {label: index for index, label in enumerate(classes)}
    labels = {split: np.array([number[label] for _, label in each], np.int32) for split, each in splits.items()}
    rows = {split: [text for text, _ in each] for split, each in splits.items()}
    if "test" not in splits and test:
        every, marks = rows["train"], labels["train"]
        rest, held = held_out(len(every), test, TEST_SEED, what="test", where=where, labels=marks)
        for split, taken in (("train", rest), ("test", held)):
            rows[split], labels[split] = [every[index] for index in taken], marks[taken]
    reader = words.reader(rows["train"], **options)
    try:
        sources: dict[str, Source] = {
            split: ArraySource({"tokens": reader.rows(rows[split]), "label": labels[split]}) for split in rows
        }
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Dataset(
        name=name,
        spec=Spec({"tokens": Field(reader.shape, "int32"), "label": Field((), "int32")}, classes, reader.vocabulary),
        splits=sources,
        preprocess=lambda batch: batch,
        reader=reader,
        stratified=True,
    )


def _of_folder(root: Path) -> dict[str, list[tuple[str, str]]]:
    splits = {}
    for split, folder in (split_folders(root) or {"train": root}).items():
        splits[split] = []
        for kind in class_folders(folder):
            files = sorted(f for f in kind.rglob("*") if f.suffix.lower() == _ENDING and f.name[0] != ".")
            if not files:
                raise ValueError(f"the class {kind.name!r} is empty: there is no {_ENDING} file in {kind}")
            splits[split] += [(text, kind.name) for text in _texts_of(files)]
    return splits


def _tell_of_cut(reader: TextReader, texts: Sequence[str]) -> None:
    """Says how many texts are longer than what a model sees of them."""
    counts = [len(reader.pieces(text)) for text in texts]
    if cut := sum(count > reader.length for count in counts):
        _LOG.warning(
            "%d of %d texts have more than %d %s, up to %d, and are cut; data_options.length=… takes more",
            *(cut, len(texts), reader.length, reader.tokens, max(counts)),
        )


def _require_texts(table: TableFile, column: str) -> None:
    """Refuses a table in which a text is empty. "None" and "n/a" are texts, too."""
    table.require_values([column], "write the text, or take the line out", missing=("",))


def _texts_of(files: Sequence[Path]) -> list[str]:
    """The whole text of each file.

    Raises:
        ValueError: if there is none in a file.
    """
    found = [_read(file) for file in files]
    if empty := [str(file) for file, text in zip(files, found, strict=True) if not text.strip()]:
        raise ValueError(f"there is no text in {_some(empty)}; take them out")
    return found


def _read(file: Path) -> str:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file.absolute()}")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error.reason} at byte {error.start}; convert it") from None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" … ({len(names)})" if len(names) > _SHOWN else "")
