"""Dates as people write them, and as ISO 8601 does: pairs of texts made by rule."""

from collections.abc import Callable
from datetime import date

import numpy as np

from data.dataset import ArraySource, Dataset, Field, Spec
from data.registry import register
from data.text.tokens import END, SPECIAL, encode, pad

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh"),
    *("twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth"),
    *("twentieth", "twenty-first", "twenty-second", "twenty-third", "twenty-fourth", "twenty-fifth", "twenty-sixth"),
    *("twenty-seventh", "twenty-eighth", "twenty-ninth", "thirtieth", "thirty-first"),
)


def _nth(number: int) -> str:
    ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


FORMS: tuple[Callable[[date], str], ...] = (
    lambda d: f"{d.day} {_MONTHS[d.month - 1]} {d.year}",
    lambda d: f"{d.day} {_MONTHS[d.month - 1][:3]} {d.year}",
    lambda d: f"{_MONTHS[d.month - 1]} {d.day}, {d.year}",
    lambda d: f"{_MONTHS[d.month - 1][:3]} {_nth(d.day)}, {d.year}",
    lambda d: f"{_nth(d.day)} of {_MONTHS[d.month - 1]}, {d.year}",
    lambda d: f"the {_ORDINALS[d.day - 1]} of {_MONTHS[d.month - 1]} {d.year}",
    lambda d: f"{_WEEKDAYS[d.weekday()]}, {d.day} {_MONTHS[d.month - 1]} {d.year}",
    lambda d: f"{_WEEKDAYS[d.weekday()][:3]} {_MONTHS[d.month - 1][:3]} {d.day} {d.year}",
    lambda d: f"{d.day}.{d.month}.{d.year}",
    lambda d: f"{d.year}, {_MONTHS[d.month - 1]} {d.day}",
)
"""The ways in which a date is written."""

_FIRST, _LAST = date(1900, 1, 1).toordinal(), date(2099, 12, 31).toordinal()
_A_YEAR = [date.fromordinal(day) for day in range(_FIRST, _FIRST + 366)]  # has every day, month and weekday
_CHARACTERS = sorted({*"0123456789-", *(character for form in FORMS for day in _A_YEAR for character in form(day))})
_LONGEST = max(len(form(day)) for form in FORMS for day in _A_YEAR)


def split_days() -> tuple[np.ndarray, np.ndarray]:
    """The ordinals of the days to train on and of those held out, one in twenty, in random orders."""
    days = np.random.default_rng(0).permutation(np.arange(_FIRST, _LAST + 1))
    held = len(days) // 20
    return days[held:], days[:held]


@register("dates")
def dates(*, size: int = 50_000, seed: int = 0) -> Dataset:
    """Days from 1900 to 2099 in ten forms, and the same in ISO 8601: "3rd of March, 1998" → "1998-03-03".

    `inputs` [36] are the characters of the one, `targets` [11] those of the other with an end; both are filled up with
    zeros. One day in twenty is held out, in all its forms: the test examples are of days that no train example tells.

    Args:
        size: number of train examples; there are 2000 test examples.
        seed: of what is drawn. Which days are held out does not depend on it, nor do the test examples.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    vocabulary = (*SPECIAL, *_CHARACTERS)
    days, held_out = split_days()

    def draw(days: np.ndarray, examples: int, seed: int) -> ArraySource:
        rng = np.random.default_rng(seed)
        drawn = [date.fromordinal(int(day)) for day in rng.choice(days, examples)]
        forms = rng.integers(0, len(FORMS), examples)
        sources = [encode(FORMS[form](day), vocabulary) for form, day in zip(forms, drawn, strict=True)]
        targets = [[*encode(day.isoformat(), vocabulary), END] for day in drawn]
        return ArraySource({"inputs": pad(sources, length=_LONGEST), "targets": pad(targets)})

    return Dataset(
        name="dates",
        spec=Spec(
            {"inputs": Field((_LONGEST,), "int32"), "targets": Field((len("1998-03-03") + 1,), "int32")},
            vocabulary=vocabulary,
        ),
        splits={"train": draw(days, size, seed + 1), "test": draw(held_out, 2000, 0)},
        preprocess=lambda batch: batch,
    )
