import numpy as np
import pytest

from data import ArraySource, Field, Spec


def test_example_has_the_shapes_and_dtypes_of_the_spec():
    spec = Spec({"image": Field((2, 3, 1), "float32"), "label": Field((), "int32")}, classes=("a", "b"))
    example = spec.example(batch_size=4)
    assert {name: (array.shape, array.dtype.name) for name, array in example.items()} == {
        "image": ((4, 2, 3, 1), "float32"),
        "label": ((4,), "int32"),
    }
    assert not any(array.any() for array in example.values())
    assert spec.num_classes == 2
    assert Spec({}).num_classes == 0


def test_array_source_reads_many_examples_at_once():
    source = ArraySource({"x": np.arange(6.0).reshape(3, 2), "y": np.array([5, 6, 7], np.uint8)})
    batch = source[np.array([2, 0])]
    assert batch["x"].tolist() == [[4, 5], [0, 1]]
    assert batch["y"].tolist() == [7, 5]
    assert len(source) == 3
    assert source.nbytes == 6 * 8 + 3


@pytest.mark.parametrize(("arrays", "shown"), [({"x": np.zeros(3), "y": np.zeros(2)}, r"'x': 3, 'y': 2"), ({}, "none")])
def test_array_source_needs_arrays_of_one_length(arrays, shown):
    with pytest.raises(ValueError, match=shown):
        ArraySource(arrays)
