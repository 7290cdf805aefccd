import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data
from data import batch_indices, steps_per_epoch
from data.pipeline import TEST_SEED, held_out, permutation

sizes = st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(st.integers(0, 2**70), sizes, st.integers(0, 200), st.integers(1, 40))
def test_rows_do_not_depend_on_how_steps_are_grouped(seed, size, start, count):
    together = batch_indices(seed, *size, start, count)
    assert together.shape == (count, size[1])
    assert together.dtype == np.int32
    for row, step in zip(together, range(start, start + count), strict=True):
        np.testing.assert_array_equal(row[None], batch_indices(seed, *size, step))


@given(st.integers(-5, 2**32), sizes, st.integers(0, 10**12))
def test_an_epoch_has_no_example_twice(seed, size, epoch):
    steps = steps_per_epoch(*size)
    rows = batch_indices(seed, *size, epoch * steps, steps)
    assert len(np.unique(rows)) == steps * size[1]
    assert rows.min() >= 0
    assert rows.max() < size[0]


def test_order_is_fixed_for_all_time():
    assert batch_indices(0, 10, 5, start=0, count=3).tolist() == [[0, 2, 9, 1, 8], [5, 4, 3, 6, 7], [5, 3, 7, 8, 2]]


LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2])


@pytest.mark.parametrize(
    ("options", "held"),
    [
        ({"amount": 4, "seed": 0}, [5, 7, 8, 9]),
        ({"amount": 0.25, "seed": 7}, [1, 4, 10]),
        ({"amount": 4, "seed": TEST_SEED}, [1, 7, 9, 10]),
        ({"amount": 4, "seed": 0, "epoch": -2}, [0, 4, 8, 11]),
        ({"amount": 4, "seed": 0, "labels": LABELS}, [0, 5, 7, 9]),
        ({"amount": 5, "seed": 0, "labels": LABELS}, [0, 2, 5, 7, 9]),
    ],
)
def test_what_is_held_out_is_fixed_for_all_time(options, held):
    """A run that goes on under a newer version must not train on what it was tested on."""
    stays, found = held_out(12, **options, what="test", where="here")
    assert found.tolist() == held
    assert stays.tolist() == [i for i in range(12) if i not in held]


def test_splits_of_arrays_are_fixed_for_all_time():
    arrays = {"image": np.arange(20.0)[:, None] / 20, "label": np.arange(20) % 2}
    splits = data.from_arrays(**arrays, test=0.25, validation=0.2).splits
    found = {name: np.rint(20 * source.arrays["image"][:, 0]).astype(int).tolist() for name, source in splits.items()}
    assert found.pop("train") == [0, 2, 3, 4, 5, 8, 13, 14, 15, 16, 17, 19]
    assert found == {"test": [1, 7, 9, 10, 18], "validation": [6, 11, 12]}


def test_epochs_and_seeds_differ_and_leave_out_other_examples():
    epochs = [batch_indices(0, 103, 10, start=10 * epoch, count=10) for epoch in range(20)]
    assert len({epoch.tobytes() for epoch in epochs}) == 20
    assert set(np.concatenate(epochs).ravel()) == set(range(103))
    assert (batch_indices(1, 103, 10, start=0, count=10) != epochs[0]).any()


def test_each_place_gets_each_example_equally_often():
    counts = np.zeros((5, 5))
    for epoch in range(2000):
        counts[np.arange(5), batch_indices(7, 5, 5, start=epoch)[0]] += 1
    # Chi-squared with 16 degrees of freedom: 39 is passed once in a thousand seeds.
    assert ((counts - 400) ** 2 / 400).sum() < 39


def test_a_caller_cannot_change_the_order():
    first = batch_indices(0, 8, 4, start=0, count=2)
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(batch_indices(0, 8, 4, start=0, count=2), kept)
    with pytest.raises(ValueError, match="read-only"):
        permutation(0, 8, 0)[:] = 0


def test_steps_per_epoch():
    assert steps_per_epoch(1437, 32) == 44
    assert steps_per_epoch(5, 5) == 1


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_impossible_batch_size(batch_size):
    with pytest.raises(ValueError, match=f"from 1 to the number of training examples, 10; got {batch_size}"):
        steps_per_epoch(10, batch_size)
    with pytest.raises(ValueError, match=f"from 1 to the number of training examples, 10; got {batch_size}"):
        batch_indices(0, 10, batch_size, start=0)


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, 0)])
def test_impossible_range(start, count):
    with pytest.raises(ValueError, match=f"start={start}, count={count}"):
        batch_indices(0, 10, 2, start, count)
