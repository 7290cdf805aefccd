import numpy as np
import pytest

import data


def test_target_is_the_sum_over_time():
    sequences = data.load("sum_sequence", length=7, size=20)
    assert {name: len(source) for name, source in sequences.splits.items()} == {"train": 20, "test": 1000}
    for source in sequences.splits.values():
        assert source.arrays["inputs"].shape == (len(source), 7, 1)
        np.testing.assert_allclose(source.arrays["target"], source.arrays["inputs"].sum(axis=1), atol=1e-5)


def test_inputs_are_standard_normal():
    inputs = data.load("sum_sequence").splits["train"].arrays["inputs"]
    assert inputs.shape == (1000, 50, 1)
    assert abs(inputs.mean()) < 0.02
    assert abs(inputs.std() - 1) < 0.02


def test_is_a_function_of_the_seed():
    first, again, other = (data.load("sum_sequence", size=5, seed=seed).splits for seed in (1, 1, 2))
    for split in ("train", "test"):
        np.testing.assert_array_equal(first[split].arrays["inputs"], again[split].arrays["inputs"])
        assert (first[split].arrays["inputs"] != other[split].arrays["inputs"]).all()
    assert (first["train"].arrays["inputs"] != first["test"].arrays["inputs"][:5]).all()


@pytest.mark.parametrize("options", [{"length": 0}, {"size": 0}])
def test_impossible_sizes(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        data.load("sum_sequence", **options)
