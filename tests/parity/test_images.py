"""Reading and changing images, as timm, torchvision and Keras do."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image

from data import ImageReader, augment
from tests.parity.torchvision_ops import timm
from zoo import pretrained

torch = pytest.importorskip("torch")
transforms = pytest.importorskip("torchvision.transforms.v2.functional")


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "convnext_tiny", "vit_base_patch16_224", "efficientnet_b5"])
@pytest.mark.parametrize("size", [(300, 451), (333, 97), (224, 224), (50, 61)])
def test_reading_is_timms_evaluation(name, size, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    config = timm.models.get_pretrained_cfg(name)
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config.to_dict()))
    wanted = theirs(Image.fromarray(pixels)).numpy().transpose(1, 2, 0)
    reader = ImageReader.of(**pretrained.preprocessing(name)._asdict())
    found = reader.preprocess({"image": reader.read(tmp_path / "a.png")[None]})["image"][0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("shape", [(9, 9, 3), (8, 8, 1)])
def test_the_affine_map_is_that_of_keras(shape):
    """Of square images: of others Keras takes half the height for the middle of the width."""
    image = pytest.importorskip("keras.src.legacy.preprocessing.image")
    pytest.importorskip("scipy")
    rng = np.random.default_rng(1)
    x = rng.uniform(size=shape).astype(np.float32)
    for angle, row, column, slant, height, width in rng.uniform(-1, 1, (5, 6)):
        settings = {"theta": 40 * angle, "shear": 20 * slant, "zx": 1 + 0.3 * width, "zy": 1 + 0.3 * height}
        axes = {"row_axis": 0, "col_axis": 1, "channel_axis": 2}
        wanted = image.apply_affine_transform(x, tx=3 * column, ty=3 * row, **axes, **settings)
        found = augment.warp(
            x[None],
            augment.affine(
                np.float32(np.deg2rad(40 * angle)),
                np.float32([3 * row, 3 * column]),
                np.float32(np.deg2rad(20 * slant)),
                np.float32([1 + 0.3 * height, 1 + 0.3 * width]),
            )[None],
        )[0]
        np.testing.assert_allclose(found, wanted, atol=3e-3)  # coordinates are rounded to 1/1024 of a pixel


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_colours_are_those_of_torchvision(factor):
    x = np.random.default_rng(2).uniform(size=(7, 5, 3)).astype(np.float32)
    y = torch.from_numpy(x.transpose(2, 0, 1).copy())

    def blended(other):
        return augment.blend(x, other, np.float32(factor))

    grey = augment.grey(x)
    pairs = [
        (blended(np.zeros_like(x)), transforms.adjust_brightness(y, factor)),
        (blended(np.full_like(x, grey.mean())), transforms.adjust_contrast(y, factor)),
        (blended(np.broadcast_to(grey, x.shape)), transforms.adjust_saturation(y, factor)),
        (augment.turn_hue(x, np.float32(factor / 4)), transforms.adjust_hue(y, factor / 4)),
    ]
    for found, wanted in pairs:
        np.testing.assert_allclose(found, wanted.numpy().transpose(1, 2, 0), atol=2e-4)


def test_hue_of_grey_and_of_pure_colours():
    x = np.array([[[0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]]], np.float32)
    found = np.asarray(jax.jit(augment.turn_hue)(x, np.float32(1 / 3)))
    np.testing.assert_allclose(found, x[:, [0, 2, 3, 1, 4, 5]], atol=1e-6)
