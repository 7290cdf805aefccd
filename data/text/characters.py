"""Texts a character at a time, as windows of tokens.

A text is kept as its characters' places in the vocabulary, a byte each where 256 suffice, and so lies on a device
whole; a window is cut out where it is needed.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import ArraySource, Batch, Dataset, Field, Spec
from data.originals import find
from data.registry import register

URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/"
)
SHA256 = {"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"}


_MOST_CHARACTERS = 2**16
"""Different ones in a text; Chinese needs a few thousand."""


class WindowSource(ArraySource):
    """Windows of a text: `tokens` [length + 1], so that each but the last has one that follows it.

    Args:
        text: tokens, integer [size].
        length: of a window, less one.
        stride: how far windows begin from one another; what is left behind the last whole one is left out.
    """

    def __init__(self, text: np.ndarray, length: int, stride: int):
        self.arrays = {"text": text}
        self._length = length
        self._stride = stride

    def __len__(self) -> int:
        return len(range(0, len(self.arrays["text"]) - self._length, self._stride))

    def gather(self, arrays: Any, indices: Any) -> Any:
        """The windows at `indices`, `tokens` [window, length + 1]."""
        return {"tokens": arrays["text"][(indices * self._stride)[:, None] + np.arange(self._length + 1)[None]]}


@register("text")
def text(path: str, *, length: int = 100) -> Dataset:
    """Any text file in UTF-8, asked for as `text:PATH`. Its vocabulary is its distinct characters, sorted.

    The first 90 % of the characters are for training, where every one begins a window; the next 5 % are the validation
    split and the last 5 % the test split, each cut into windows that share no targets. (TensorFlow Datasets splits Tiny
    Shakespeare so; nanoGPT validates on the last 10 %, that is on both.)

    Args:
        path: of the file.
        length: characters to be told in a window, each from those before it there. `tokens` is one longer.

    Raises:
        ValueError: if the file is empty, is no UTF-8 (says where) or gives a split no window, or if `length` < 1.
        FileNotFoundError: if there is no such file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no text file {file.absolute()}")
    return _build(f"text:{path}", file.read_bytes(), str(file), length)


@register("tiny_shakespeare")
def tiny_shakespeare(*, length: int = 100) -> Dataset:
    """A million characters of Shakespeare's plays (Karpathy, 2015), 65 distinct ones. Split and cut as `text` is.

    The file `input.txt` is looked for in the folder "tiny_shakespeare" of `ZOO_DATA_DIR`, then in that of TensorFlow
    Datasets' downloads, and last downloaded to there.
    """
    return _build("tiny_shakespeare", *shakespeare(), length)


def shakespeare() -> tuple[bytes, str]:
    """What is in the file of Tiny Shakespeare, and where it is."""
    (file,) = SHA256
    path = find("tiny_shakespeare", URL, SHA256) / file
    return path.read_bytes(), str(path)


def _build(name: str, content: bytes, where: str, length: int) -> Dataset:
    if length < 1:
        raise ValueError(f"length must be at least 1; got {length}")
    tokens, vocabulary = tokenize(content, where)
    size = len(tokens)
    parts = np.split(tokens, [size * 90 // 100, size * 95 // 100])
    if (shortest := min(map(len, parts))) <= length:
        raise ValueError(
            f"{where} is too short: of its {size} characters {shortest} are for evaluation, and a window of length "
            f"{length} takes {length + 1}; take a longer text, or a smaller length (data_options.length=… of a recipe)"
        )
    train, validation, test = parts

    def preprocess(batch: Batch) -> Batch:
        return {**batch, "tokens": batch["tokens"].astype(np.int32)}

    return Dataset(
        name=name,
        spec=Spec({"tokens": Field((length + 1,), "int32")}, vocabulary=vocabulary),
        splits={
            "train": WindowSource(train, length, stride=1),
            "validation": WindowSource(validation, length, stride=length),
            "test": WindowSource(test, length, stride=length),
        },
        preprocess=preprocess,
    )


def tokenize(content: bytes, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """UTF-8 → the tokens of its characters, of the smallest unsigned dtype, and its distinct characters, sorted.

    A mark of the byte order at the beginning is left out.

    Raises:
        ValueError: if there are no characters, or if they are no UTF-8; `where` names the file.
    """
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where} is not UTF-8: {error.reason} at byte {error.start} (0x{content[error.start]:02x}); convert it"
        ) from None
    if not text:
        raise ValueError(f"{where} is empty")
    distinct, tokens = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_inverse=True)
    if len(distinct) > _MOST_CHARACTERS:
        raise ValueError(f"{where} has {len(distinct):,} different characters, of at most {_MOST_CHARACTERS:,}")
    return tokens.astype(np.min_scalar_type(len(distinct) - 1)), tuple(map(chr, distinct))
