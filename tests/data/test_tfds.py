import jax
import numpy as np
import pytest
from PIL import Image

import data

tfds = pytest.importorskip("tensorflow_datasets")
tfds.disable_progress_bar()


def prepare(data_dir, dataset_name, version, features, splits):
    """Writes examples as array_record under the name of a data set. `splits` is {split: [example]}."""
    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            name = dataset_name
            VERSION = tfds.core.Version(version)

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {split: enumerate(examples) for split, examples in splits.items()}

            def _generate_examples(self):
                raise NotImplementedError

    Builder(data_dir=data_dir).download_and_prepare(file_format="array_record")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two prepared data sets: cifar10, and one of photos of several sizes with a text."""
    data_dir = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    names = ["airplane", "bird"]

    def examples(count):
        for i in range(count):
            image = np.full((32, 32, 3), i, np.uint8)
            yield {"id": f"train_{i}", "image": Image.fromarray(image), "label": i % 2}

    prepare(
        data_dir,
        "cifar10",
        "3.0.2",
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(names=names),
        },
        {"train": list(examples(12)), "test": list(examples(4))},
    )
    photos = [
        {
            "photo": Image.fromarray(rng.integers(0, 256, (8 + i, 9, 3), dtype=np.uint8)),
            "caption": f"photo {i}",
            "weight": i / 2,
            "words": [1] * i,
        }
        for i in range(5)
    ]
    prepare(
        data_dir,
        "photos",
        "1.0.0",
        {
            "photo": tfds.features.Image(shape=(None, None, 3)),
            "caption": tfds.features.Text(),
            "weight": tfds.features.Scalar(np.float64),
            "words": tfds.features.Sequence(np.int64),
        },
        {"train": photos[:3], "validation": photos[3:]},
    )
    return data_dir


@pytest.fixture
def data_dir(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    return prepared


def test_reads_a_prepared_data_set(data_dir):
    cifar = data.load("cifar10", validation=2)
    assert cifar.spec == data.Spec(
        {"image": data.Field((32, 32, 3), "float32"), "label": data.Field((), "int32")}, ("airplane", "bird")
    )
    assert {split: len(source) for split, source in cifar.splits.items()} == {"train": 10, "validation": 2, "test": 4}
    assert cifar.raw_image_shape == (32, 32, 3)
    seen = []
    for source in (cifar.splits["train"], cifar.splits["validation"]):
        raw = source[np.arange(len(source))[::-1]]
        values = raw["image"][:, 0, 0, 0]
        assert raw["image"].dtype == np.uint8
        np.testing.assert_array_equal(raw["label"], values % 2)
        np.testing.assert_array_equal(source[np.array([0])]["image"], raw["image"][-1:])
        for batch in (cifar.preprocess(raw), jax.jit(cifar.preprocess)(raw)):
            assert batch["label"].dtype == np.int32
            np.testing.assert_allclose(batch["image"], raw["image"].astype(np.float32) / 255, rtol=1e-6)
        seen += values.tolist()
    assert sorted(seen) == list(range(12))


def test_reads_what_tfds_mocks(data_dir, monkeypatch):
    # A MagicMock passes no self to __getitems__, which the mock's own function for it expects (TFDS 4.9.10).
    monkeypatch.setattr(
        "tensorflow_datasets.testing.mocking._getitems", lambda keys, generator: [generator[key] for key in keys]
    )
    with tfds.testing.mock_data(num_examples=6, data_dir=str(data_dir)):
        cifar = data.load("cifar10")
        batch = cifar.preprocess(cifar.splits["train"][np.array([5, 0, 3])])
    assert batch["image"].shape == (3, 32, 32, 3)
    assert batch["image"].dtype == np.float32
    assert batch["label"].dtype == np.int32
    assert 0 <= batch["image"].min() < batch["image"].max() <= 1
    assert len(cifar.splits["test"]) == 6


def test_version_and_unknown_version(data_dir):
    assert len(data.load("cifar10:3.0.2").splits["test"]) == 4
    with pytest.raises(AssertionError, match=r"cannot be loaded at version 9\.9\.9"):
        data.load("cifar10:9.9.9")


def test_images_of_several_sizes_need_a_size(data_dir):
    with pytest.raises(ValueError, match=r"'photo'.*\(None, None, 3\).*pass image_size=\(height, width\)"):
        data.load("photos")
    photos = data.load("photos", image_size=(6, 5))
    batch = photos.preprocess(photos.splits["train"][np.arange(3)])
    assert photos.spec.fields == {"photo": data.Field((6, 5, 3), "float32"), "weight": data.Field((), "float32")}
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "photo": ((3, 6, 5, 3), "float32"),
        "weight": ((3,), "float32"),
    }
    assert photos.spec.num_classes == 0


def test_fields_are_chosen_by_name(data_dir):
    photos = data.load("photos", fields=("caption", "weight"))
    batch = photos.splits["validation"][np.arange(2)]
    assert {caption.decode(): weight for caption, weight in zip(batch["caption"], batch["weight"], strict=True)} == {
        "photo 3": 1.5,
        "photo 4": 2.0,
    }
    with pytest.raises(ValueError, match=r"no field 'captions'; it has caption"):
        data.load("photos", fields=["captions"])
    with pytest.raises(ValueError, match=r"'words'.*\(None,\).*leave it out of fields"):
        data.load("photos", fields=["words"])


def test_a_validation_split_is_not_replaced(data_dir):
    with pytest.raises(ValueError, match="'photos' has the splits train, validation"):
        data.load("photos", image_size=(4, 4), validation=1)


def test_unreachable_download_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with pytest.raises(FileNotFoundError, match=rf"'cifar10' is not in {tmp_path}.*Prepare it elsewhere"):
        data.load("cifar10")


def test_a_builder_that_needs_tensorflow_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"preparing data set 'titanic' needs.*tensorflow.*Prepare it elsewhere"):
        data.load("titanic")
