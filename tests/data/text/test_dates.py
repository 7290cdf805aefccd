"""Pairs of texts made by rule."""

from datetime import date, datetime

import numpy as np
import pytest

import data
from data.text.dates import FORMS, split_days
from data.text.tokens import decode


@pytest.fixture(scope="module")
def dates():
    return data.load("dates", size=3000)


def texts(dataset, split):
    source = dataset.splits[split]
    batch = source[np.arange(len(source))]
    for name, field in dataset.spec.fields.items():
        assert batch[name].shape[1:] == field.shape
        assert batch[name].dtype == field.dtype
    return [[decode(row, dataset.spec.vocabulary) for row in batch[name]] for name in ("inputs", "targets")]


def test_the_forms():
    assert [form(date(1998, 3, 3)) for form in FORMS] == [
        "3 March 1998",
        "3 Mar 1998",
        "March 3, 1998",
        "Mar 3rd, 1998",
        "3rd of March, 1998",
        "the third of March 1998",
        "Tuesday, 3 March 1998",
        "Tue Mar 3 1998",
        "3.3.1998",
        "1998, March 3",
    ]
    ordinals = [FORMS[4](date(2000, 1, day)).split()[0] for day in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 30, 31)]
    assert ordinals == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd", "30th", "31st"]
    words = {FORMS[5](date(2000, 1, day)).split()[1] for day in range(1, 32)}
    assert len(words) == 31


def test_a_source_and_its_target_are_one_day(dates):
    """As far as Python's own parser reads the forms."""
    read = 0
    for source, target in zip(*texts(dates, "train"), strict=True):
        for form in ("%d %B %Y", "%d %b %Y", "%B %d, %Y", "%A, %d %B %Y", "%a %b %d %Y", "%d.%m.%Y", "%Y, %B %d"):
            try:
                day = datetime.strptime(source, form).date()
            except ValueError:
                continue
            assert day.isoformat() == target
            read += 1
            break
    assert read > 0.6 * 3000


def test_no_day_of_the_test_is_trained_on(dates):
    (_, train), (_, test) = texts(dates, "train"), texts(dates, "test")
    assert not set(train) & set(test)
    assert len(set(test)) > 1400
    assert (min(test)[:2], max(test)[:2]) == ("19", "20")


def test_one_day_in_twenty_is_held_out():
    """Whatever is drawn of them: no day is on both sides, and none on neither."""
    days, held_out = split_days()
    assert len(held_out) == (len(days) + len(held_out)) // 20
    first, last = date(1900, 1, 1).toordinal(), date(2099, 12, 31).toordinal()
    assert sorted([*days, *held_out]) == list(range(first, last + 1))


def test_the_test_depends_on_nothing(dates):
    other = data.load("dates", size=10, seed=5)
    assert texts(other, "test") == texts(dates, "test")
    assert texts(other, "train")[1] != texts(dates, "train")[1][:10]


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="size must be at least 1; got 0"):
        data.load("dates", size=0)
