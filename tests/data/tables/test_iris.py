import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import Perceptron
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import data


def test_equals_scikit_learn():
    features, labels = load_iris(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        features, labels, test_size=0.2, random_state=42, stratify=labels
    )
    iris = data.load("iris")
    assert iris.spec.classes == tuple(load_iris().target_names)
    np.testing.assert_array_equal(iris.splits["train"].arrays["features"], train.astype(np.float32))
    np.testing.assert_array_equal(iris.splits["train"].arrays["label"], train_labels)
    np.testing.assert_array_equal(iris.splits["test"].arrays["label"], test_labels)
    standard = data.load("iris", standardize=True)
    np.testing.assert_allclose(
        standard.preprocess(standard.splits["test"][np.arange(30)])["features"],
        StandardScaler().fit(train).transform(test),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(("positive", "separable"), [("setosa", True), ("versicolor", False)])
def test_one_species_against_the_rest(positive, separable):
    iris = data.load("iris", positive=positive)
    train = iris.splits["train"].arrays
    assert iris.spec.classes == ("other", positive)
    assert np.bincount(train["label"]).tolist() == [80, 40]
    accuracy = (
        Perceptron(random_state=0)
        .fit(train["features"], train["label"])
        .score(
            **{
                "X": train["features"],
                "y": train["label"],
            }
        )
    )
    assert (accuracy == 1) == separable


def test_unknown_species():
    with pytest.raises(ValueError, match="setosa, versicolor, virginica; got 'rose'"):
        data.load("iris", positive="rose")


def test_has_no_images():
    with pytest.raises(ValueError, match=r"'iris' has no images; its fields are \['features', 'label'\]"):
        _ = data.load("iris").raw_image_shape
