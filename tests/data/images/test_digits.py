import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import data


def sklearn_splits():
    return train_test_split(*load_digits(return_X_y=True), test_size=0.2, random_state=42)


def prepared(dataset, split):
    source = dataset.splits[split]
    return dataset.preprocess(source[np.arange(len(source))])


def test_equals_scikit_learn():
    train, test, train_labels, test_labels = sklearn_splits()
    digits = data.load("digits")
    assert digits.raw_image_shape == (8, 8, 1)
    assert digits.spec.num_classes == 10
    for split, images, labels, size in (("train", train, train_labels, 1437), ("test", test, test_labels, 360)):
        batch = prepared(digits, split)
        assert batch["image"].shape == (size, 8, 8, 1)
        np.testing.assert_array_equal(batch["image"].reshape(size, 64) * 16, images)
        np.testing.assert_array_equal(batch["label"], labels)


def test_standardize_equals_scikit_learn_also_with_validation():
    train, test, *_ = sklearn_splits()
    scaler = StandardScaler().fit(train)
    digits = data.load("digits", flat=True, standardize=True, validation=0.2)
    assert digits.raw_image_shape == (8, 8, 1)
    np.testing.assert_allclose(prepared(digits, "test")["image"], scaler.transform(test), rtol=1e-5, atol=1e-5)


def test_upsample_repeats_pixels():
    plain, large = data.load("digits"), data.load("digits", upsample=4)
    image = prepared(large, "test")["image"]
    assert large.raw_image_shape == (8, 8, 1)
    assert large.spec.fields["image"].shape == image.shape[1:] == (32, 32, 1)
    np.testing.assert_array_equal(image, np.kron(prepared(plain, "test")["image"], np.ones((1, 4, 4, 1))))


def test_impossible_upsample():
    with pytest.raises(ValueError, match="upsample must be at least 1; got 0"):
        data.load("digits", upsample=0)
