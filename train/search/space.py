"""Search spaces: settings as `zoo train` takes them, with ranges and choices in the place of values.

learning_rate=log:1e-4..1e-2                  a number between two, on a logarithmic scale
model_options.dropout_rate=0..0.5:0.1         in steps; whole numbers where both ends and the step are whole
batch_size=16,32,64                           one of several values, which may be lists: [64],[128,64]
model_options.features=[16..64:16, 32..128]   a list with ranges inside
model_options.hidden_sizes=[32..512:32]*1..4  a list of one to four numbers, each drawn for itself
epochs=10                                     a value that all trials share
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from train.settings import literal, parts_of

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


class Span(NamedTuple):
    """Numbers from `low` to `high`, both included; whole ones where both ends and the step are whole."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def draw(self, name: str, trial: BaseTrial) -> float:
        """A number, as the sampler of the trial chooses it."""
        if _whole(self):
            low, high = int(self.low), int(self.high)
            return trial.suggest_int(name, low, high, step=int(self.step or 1), log=self.log)
        value = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        if self.step is None:
            return value
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        return float(low + round((Decimal(str(value)) - low) / step) * step)  # 0.3, not 0.30000000000000004

    def ends(self) -> Iterator[Any]:
        """The least and the greatest."""
        yield from (self.low, self.high)


class Choice(NamedTuple):
    """Values as they are written, one of which is taken."""

    texts: tuple[str, ...]

    def draw(self, name: str, trial: BaseTrial) -> Any:
        """One of the values."""
        return literal(trial.suggest_categorical(name, self.texts))

    def ends(self) -> Iterator[Any]:
        """All of them."""
        yield from map(literal, self.texts)


class Items(NamedTuple):
    """A list whose items are ranges, lists, or values."""

    items: tuple[Any, ...]

    def draw(self, name: str, trial: BaseTrial) -> list[Any]:
        """A list; the draw of an item is called `NAME[INDEX]`."""
        return [
            item.draw(f"{name}[{index}]", trial) if isinstance(item, DRAWS) else item
            for index, item in enumerate(self.items)
        ]

    def ends(self) -> Iterator[Any]:
        """The list with each range at its least, and at its greatest."""
        for end in (0, -1):
            yield [[*item.ends()][end] if isinstance(item, DRAWS) else item for item in self.items]


class Repeat(NamedTuple):
    """A list of `least` to `most` draws from one range or choice; those beyond its length are not drawn."""

    of: Span | Choice
    least: int
    most: int

    def draw(self, name: str, trial: BaseTrial) -> list[Any]:
        """A list; its length is called `NAME.length`, the draw of an item `NAME[INDEX]`."""
        length = trial.suggest_int(f"{name}.length", self.least, self.most) if self.least < self.most else self.least
        return [self.of.draw(f"{name}[{index}]", trial) for index in range(length)]

    def ends(self) -> Iterator[Any]:
        """The shortest and the longest list of each end."""
        for value in self.of.ends():
            yield from ([value] * length for length in dict.fromkeys((self.least, self.most)))


DRAWS = (Span, Choice, Items, Repeat)
"""The kinds of things that are drawn. Each has `draw(name, trial)` and `ends()`."""

Draw = Span | Choice | Items | Repeat


class Space(NamedTuple):
    """What a search draws, by setting, and how it was written."""

    draws: Mapping[str, Draw]
    texts: Mapping[str, str]

    def draw(self, trial: BaseTrial) -> dict[str, Any]:
        """The value of each setting in a trial of Optuna."""
        return {name: kind.draw(name, trial) for name, kind in self.draws.items()}

    def ends(self) -> Iterator[tuple[str, Any]]:
        """Each setting at each of its ends and choices: what is wrong with a space shows there."""
        for name, kind in self.draws.items():
            for value in kind.ends():
                yield name, value


def read_settings(file: str | Path) -> list[str]:
    """The settings in a file, one a line; what follows a `#` at the start of a line or behind a space is left out.

    Raises:
      ValueError: there is no such file, it is no text, or a line is no setting.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"the space {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the space {file} is no text: it holds a setting a line, such as batch_size=16,32") from None
    settings = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    for number, setting in enumerate(settings, start=1):
        if setting and "=" not in setting:
            raise ValueError(f"line {number} of {file} is no setting such as batch_size=16,32: {setting!r}")
    return [setting for setting in settings if setting]


def parse_space(settings: Iterable[str]) -> tuple[Space, list[str]]:
    """The space that settings span, and the settings that give one value.

    Of two settings with one name the later counts.

    Raises:
      ValueError: a setting has no `=`, or a range that is none; the message says what is wrong with it.
    """
    texts: dict[str, str] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"a setting has the form NAME=VALUE, such as batch_size=16,32,64; not {setting!r}")
        texts.pop(name.strip(), None)
        texts[name.strip()] = text.strip()
    draws: dict[str, Draw] = {}
    for name, text in texts.items():
        try:
            kind = _parse(text)
        except ValueError as error:
            raise ValueError(f"{name}={text}: {error}") from None
        if kind is not None:
            draws[name] = kind
    fixed = [f"{name}={text}" for name, text in texts.items() if name not in draws]
    return Space(draws, {name: texts[name] for name in draws}), fixed


def of_floats(kind: Draw) -> Draw:
    """The same range in numbers that need not be whole: for a setting such as a rate, `0..1` is no choice of two."""
    return kind._replace(low=float(kind.low), high=float(kind.high)) if isinstance(kind, Span) else kind


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_SPAN = re.compile(rf"(log:)?({_NUMBER})\.\.({_NUMBER})(?::({_NUMBER}))?")
_REPEAT = re.compile(r"\[(.*)\]\*(\d+)(?:\.\.(\d+))?", re.DOTALL)


def _parse(text: str) -> Draw | None:
    """What a value draws; None where it is one value."""
    parts = _split(text)
    if len(parts) > 1:
        if any(_parse(part) is not None for part in parts):
            raise ValueError("a choice is between values, not between ranges")
        if len(set(parts)) < len(parts):
            raise ValueError("a choice has each value once")
        return Choice(tuple(parts))
    if found := _REPEAT.fullmatch(text):
        inner = _parse(found[1]) if found[1].strip() else None
        inner = Choice((found[1].strip(),)) if inner is None else inner
        least, most = int(found[2]), int(found[3] or found[2])
        if not isinstance(inner, Span | Choice) or not found[1].strip():
            raise ValueError("what is repeated is a range or a choice, as in [32..512:32]*1..4")
        if not 1 <= least <= most:
            raise ValueError(f"a list has at least one item, and its length a range such as 1..4; not {least}..{most}")
        return Repeat(inner, least, most)
    if found := _SPAN.fullmatch(text):
        return _span(*found.groups())
    if text.startswith("log:") or (".." in text and not set("/\\'\"[") & set(text)):
        raise ValueError("a range is LOW..HIGH, log:LOW..HIGH or LOW..HIGH:STEP, such as log:1e-4..1e-2")
    if text[:1] == "[" and text[-1:] == "]":
        items = _split(text[1:-1])
        kinds = [_parse(item) for item in items]
        if any(kind is not None for kind in kinds):
            values = zip(kinds, items, strict=True)
            return Items(tuple(literal(item) if kind is None else kind for kind, item in values))
    return None


def _span(log: str | None, low: str, high: str, step: str | None) -> Span:
    whole = all(re.fullmatch(r"[-+]?\d+", number) for number in (low, high, step or "1"))
    span = Span(*(int(n) if whole else float(n) for n in (low, high)), log=bool(log))
    if not math.isfinite(span.low) or not math.isfinite(span.high):
        raise ValueError("the ends of a range are finite")
    if not span.low < span.high:
        raise ValueError(f"the range begins at {low} and ends at {high}; the lower end comes first")
    if log and span.low <= 0:
        raise ValueError(f"a logarithmic scale begins above 0, not at {low}")
    if step is None:
        return span
    if log:
        raise ValueError("a logarithmic scale has no steps")
    if float(step) <= 0:
        raise ValueError(f"a step is greater than 0, not {step}")
    count, rest = divmod(Decimal(high) - Decimal(low), Decimal(step))
    if rest:
        raise ValueError(
            f"steps of {step} from {low} reach {Decimal(low) + count * Decimal(step)} and "
            f"{Decimal(low) + (count + 1) * Decimal(step)}, not {high}: end on one of them"
        )
    return span._replace(step=int(step) if whole else float(step))


def _whole(span: Span) -> bool:
    return all(isinstance(number, int) for number in (span.low, span.high, span.step or 1))


def _split(text: str) -> list[str]:
    """The parts between commas; a comma at the end adds none."""
    parts = parts_of(text)
    return parts[:-1] if len(parts) > 1 and not parts[-1] else parts
