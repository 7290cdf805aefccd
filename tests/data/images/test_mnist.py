import functools
import hashlib
import http.server
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import data
from data.images import mnist

real = pytest.mark.skipif(
    not os.path.isdir(os.path.join(os.environ.get("ZOO_DATA_DIR", ""), "mnist")), reason="needs ZOO_DATA_DIR with mnist"
)


@pytest.mark.slow
@real
def test_the_real_files():
    splits = data.load("mnist").splits
    histograms = {
        "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    }
    for split, histogram in histograms.items():
        arrays = splits[split].arrays
        assert arrays["image"].shape == (sum(histogram), 28, 28, 1)
        assert arrays["image"].dtype == np.uint8
        assert np.bincount(arrays["label"]).tolist() == histogram
    pixels = splits["train"].arrays["image"] / np.float32(255)
    assert pixels.mean() == pytest.approx(mnist.MNIST.mean, abs=5e-5)
    assert pixels.std() == pytest.approx(mnist.MNIST.deviation, abs=5e-5)
    assert splits["train"].arrays["label"][:5].tolist() == [5, 0, 4, 1, 9]
    content = splits["test"].arrays["image"].tobytes()
    assert hashlib.sha256(content).hexdigest() == "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_hashes_are_those_of_tensorflow_datasets(name):
    import tensorflow_datasets as tfds

    origin = getattr(mnist, name.upper())
    infos = {url: info.checksum for url, info in tfds.builder_cls(name).url_infos.items()}
    assert {origin.url + file: sha256 for file, sha256 in origin.sha256.items()} == infos
    names = tfds.builder(name).info.features["label"].names
    assert origin.classes == tuple(names)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_reads_idx_files_in_order(name, few_mnist):
    dataset = data.load(name)
    assert dataset.raw_image_shape == (28, 28, 1)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = few_mnist[name, prefix]
        np.testing.assert_array_equal(dataset.splits[split].arrays["image"][..., 0], images)
        np.testing.assert_array_equal(dataset.splits[split].arrays["label"], labels)


def test_pads_with_background_and_standardizes(few_mnist):
    images, _ = few_mnist["mnist", "t10k"]
    padded, standard = data.load("mnist", pad=2), data.load("mnist", pad=2, standardize=True)
    raw = padded.splits["test"][np.arange(10)]
    image = padded.preprocess(raw)["image"]
    assert padded.spec.fields["image"].shape == image.shape[1:] == (32, 32, 1)
    np.testing.assert_allclose(image[:, 2:-2, 2:-2, 0], images / 255, rtol=1e-6)
    assert image.sum() == pytest.approx(image[:, 2:-2, 2:-2].sum())
    np.testing.assert_allclose(standard.preprocess(raw)["image"], (image - 0.1307) / 0.3081, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="pad must be at least 0; got -1"):
        data.load("mnist", pad=-1)


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:50] + b"x" + content[51:]])
def test_damaged_file_is_named_with_its_hash(few_mnist, tmp_path, damage):
    path = tmp_path / "zoo" / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    expected = mnist.MNIST.sha256[path.name]
    with pytest.raises(ValueError, match=f"{path} is not the original file.*sha256 expected {expected}"):
        data.load("mnist").splits["train"]


def test_missing_file_is_named(few_mnist, tmp_path):
    path = tmp_path / "zoo" / "mnist" / "train-labels-idx1-ubyte.gz"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path} is missing; get it from https://"):
        data.load("mnist").splits["train"]


def test_nothing_available_says_what_to_do(few_mnist, monkeypatch):
    monkeypatch.delenv("ZOO_DATA_DIR")
    monkeypatch.setattr(mnist, "MNIST", mnist.MNIST._replace(url="http://127.0.0.1:1/"))
    with pytest.raises(FileNotFoundError, match=r"train-images.*t10k-labels.*http://127\.0\.0\.1:1/.*ZOO_DATA_DIR"):
        data.load("mnist").splits["train"]


@pytest.fixture
def server(few_mnist, tmp_path, monkeypatch):
    """Serves the few examples by HTTP, with nothing on disk; gives the folder served."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "zoo" / "mnist"
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(mnist, "MNIST", mnist.MNIST._replace(url=f"http://127.0.0.1:{server.server_port}/"))
        monkeypatch.delenv("ZOO_DATA_DIR")
        yield folder
        server.shutdown()


def test_downloads_once_also_when_several_do(few_mnist, server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        for dataset in pool.map(data.load, ["mnist"] * 4):
            np.testing.assert_array_equal(
                dataset.splits["train"].arrays["image"][..., 0], few_mnist["mnist", "train"][0]
            )
    assert {path.name for path in (tmp_path / "tfds/downloads/mnist").iterdir()} == set(mnist.MNIST.sha256)
    for path in server.iterdir():
        path.unlink()
    assert len(data.load("mnist").splits["test"]) == 10


def test_a_changed_download_is_not_kept(server, tmp_path):
    (server / "train-images-idx3-ubyte.gz").write_bytes(b"not the file")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is not what it was \(sha256 expected"):
        data.load("mnist").splits["train"]
    assert not list((tmp_path / "tfds/downloads/mnist").iterdir())


def test_reads_what_tensorflow_datasets_prepared_in_the_original_order(few_mnist, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds
    from PIL import Image

    stock = tfds.builder_cls("mnist")
    with tfds.core.registered.skip_registration():

        class Prepared(stock):
            name = "mnist"

            def _split_generators(self, dl_manager):
                return {
                    split: self._generate_examples(*few_mnist["mnist", prefix])
                    for split, prefix in (("train", "train"), ("test", "t10k"))
                }

            def _generate_examples(self, images, labels):
                for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                    yield index, {"image": Image.fromarray(image.astype(np.uint8)), "label": int(label)}

    tfds.disable_progress_bar()
    Prepared(data_dir=tmp_path / "tfds").download_and_prepare(file_format="array_record")
    expected = data.load("mnist").splits
    monkeypatch.delenv("ZOO_DATA_DIR")
    for split, source in data.load("mnist").splits.items():
        for field, array in source.arrays.items():
            np.testing.assert_array_equal(array, expected[split].arrays[field])
            assert array.dtype == expected[split].arrays[field].dtype


def test_what_a_model_needs_to_know_is_there_without_the_files(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(mnist, "_find", lambda *arguments: pytest.fail("the files were asked for"))
    dataset = data.load("mnist", pad=2)
    assert (dataset.raw_image_shape, dataset.spec.fields["image"].shape) == ((28, 28, 1), (32, 32, 1))
    assert list(dataset.splits) == ["train", "test"]
    assert "dev" not in dataset.splits
    assert dataset.preprocess({"image": np.zeros((1, 28, 28, 1), np.uint8)})["image"].shape == (1, 32, 32, 1)
