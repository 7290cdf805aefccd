"""Augmentation: what stays as it is, what is exact, and how it is drawn."""

from __future__ import annotations

import colorsys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data import augment
from data.augment import POLICIES, Policy, affine, policy, warp
from tests.draws import assert_all_differ, keys_drawn_from

KEY = jax.random.key(3)


def images(batch=4, height=6, width=6, channels=3, seed=0):
    return np.random.default_rng(seed).uniform(size=(batch, height, width, channels)).astype(np.float32)


def batch_of(x):
    return {"image": x, "label": np.arange(len(x), dtype=np.int32) % 3}


@partial(jax.jit, static_argnums=0)
def applied(policy, batch, key):
    return augment.apply(policy, batch, key, num_classes=3)


def turned(degrees):
    return affine(np.float32(np.deg2rad(degrees)), np.zeros(2), np.float32(0), np.ones(2))[None]


# ---- resampling ----


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 8, 3), (3, 7, 4, 1)])
def test_the_identity_is_exact(shape):
    x = images(*shape)
    maps = jnp.broadcast_to(turned(0), (len(x), 2, 3))
    np.testing.assert_array_equal(jax.jit(warp)(x, maps), x)


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
@pytest.mark.parametrize("side", [5, 6])
def test_quarter_turns_are_exact(quarters, side):
    x = images(1, side, side)
    found = np.asarray(jax.jit(warp)(x, turned(90 * quarters)))
    np.testing.assert_array_equal(found, np.rot90(x, quarters, axes=(1, 2)))


def test_whole_shifts_are_exact_and_repeat_the_edge():
    x = images(1, 5, 6)
    moved = affine(np.float32(0), np.array([2, -3]), np.float32(0), np.ones(2))[None]
    rows, columns = np.clip(np.arange(5) + 2, 0, 4), np.clip(np.arange(6) - 3, 0, 5)
    np.testing.assert_array_equal(jax.jit(warp)(x, moved), x[:, rows][:, :, columns])


def test_a_gradient_is_resampled_linearly():
    ramp = np.broadcast_to(np.arange(9, dtype=np.float32)[None, :, None, None], (1, 9, 9, 1))
    zoomed = affine(np.float32(0), np.zeros(2), np.float32(0), np.array([0.5, 1]))[None]
    found = np.asarray(jax.jit(warp)(ramp, zoomed))[0, :, 4, 0]
    np.testing.assert_allclose(found, 4 + (np.arange(9) - 4) / 2)


def test_parts_of_a_pixel_are_kept_to_a_thousandth():
    ramp = np.broadcast_to(np.arange(9, dtype=np.float32)[None, :, None, None], (1, 9, 9, 1))
    moved = affine(np.float32(0), np.array([0.3, 0]), np.float32(0), np.ones(2))[None]
    found = np.asarray(jax.jit(warp)(ramp, moved))[0, :8, 4, 0]
    np.testing.assert_allclose(found, np.arange(8) + 0.3, atol=1e-3)


@pytest.mark.parametrize("turn", [0.0, 0.1, -0.3, 0.5])
def test_hue_is_that_of_hsv(turn):
    x = images(1, 4, 4)[0]
    x[0] = x[0].round()  # pure colours, black and white
    hsv = [colorsys.rgb_to_hsv(*map(float, pixel)) for pixel in x.reshape(-1, 3)]
    wanted = [colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in hsv]
    found = np.asarray(augment.turn_hue(x, np.float32(turn))).reshape(-1, 3)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


# ---- policies ----


def test_nothing_asked_nothing_done():
    x = images()
    done = applied(Policy(), batch_of(x), KEY)
    np.testing.assert_array_equal(done["image"], x)
    np.testing.assert_array_equal(done["label"], batch_of(x)["label"])
    bytes_ = np.uint8(x * 255)
    np.testing.assert_allclose(applied(Policy(), batch_of(bytes_), KEY)["image"], bytes_ / np.float32(255), rtol=1e-6)


STRENGTHS = {
    "rotation": 30.0,
    "shift": 0.3,
    "shear": 30.0,
    "zoom": 0.3,
    "random_crop": 0.3,
    "flip": True,
    "vertical_flip": True,
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "hue": 0.3,
    "erase": 1.0,
    "mixup": 1.0,
    "cutmix": 1.0,
}


def test_every_setting_is_tested():
    assert set(STRENGTHS) == set(Policy.__dataclass_fields__)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRENGTHS)
def test_each_setting(name):
    """Changes images, each otherwise, the same for the same key, within [0, 1]."""
    x = np.repeat(images(1, 8, 8), 8, axis=0)
    if name in ("mixup", "cutmix"):
        x = images(8, 8, 8)
    strength = policy(**{name: STRENGTHS[name]})
    found = np.asarray(applied(strength, batch_of(x), KEY)["image"])
    assert found.shape == x.shape
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    changed = np.abs(found - x).max(axis=(1, 2, 3)) > 1e-3
    assert changed.any()
    kinds = 2 if "flip" in name else 6
    assert len({image.tobytes() for image in found}) >= kinds, "examples have draws of their own"
    np.testing.assert_array_equal(found, applied(strength, batch_of(x), KEY)["image"])
    assert not np.array_equal(found, applied(strength, batch_of(x), jax.random.key(4))["image"])


@pytest.mark.slow
def test_without_jit():
    """Where no pixel is on one side of a border or the other."""
    x = images()
    some = policy(rotation=30, flip=True, brightness=0.3, mixup=0.5)
    plain = augment.apply(some, batch_of(x), KEY, num_classes=3)
    found = applied(some, batch_of(x), KEY)
    np.testing.assert_allclose(found["image"], plain["image"], atol=5e-3)  # the rounding of a coordinate may differ
    np.testing.assert_allclose(found["label"], plain["label"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in POLICIES if name != "none"])
@pytest.mark.parametrize("shape", [(1, 7, 5, 3), (3, 1, 1, 3)])
def test_named_policies_on_odd_sizes(name, shape):
    found = applied(policy(name), batch_of(images(*shape)), KEY)["image"]
    assert found.shape == shape
    assert np.isfinite(found).all()


def test_flips_are_exact_and_half_of_all():
    x = images(200, 3, 4)
    for name, axis in (("flip", 2), ("vertical_flip", 1)):
        found = np.asarray(applied(policy(**{name: True}), batch_of(x), KEY)["image"])
        same, mirrored = ((found == y).all(axis=(1, 2, 3)) for y in (x, np.flip(x, axis)))
        assert (same | mirrored).all()
        assert 70 < mirrored.sum() < 130


def test_flips_are_drawn_apart():
    """Each way to mirror an image, or not, a quarter of all."""
    x = images(400, 3, 4)
    found = np.asarray(applied(policy(flip=True, vertical_flip=True), batch_of(x), KEY)["image"])
    for axes in ((), (1,), (2,), (1, 2)):
        assert 70 < (found == np.flip(x, axes)).all(axis=(1, 2, 3)).sum() < 130


def drawn_maps(number, **settings):
    """The linear parts `[number, 2, 2]` and the offsets `[number, 2]` of maps."""
    some = policy(**settings)
    draw = jax.jit(jax.vmap(lambda key: augment.random_map(some, key, 40, 20)))
    return np.split(np.asarray(draw(jax.random.split(KEY, number))), [2], axis=2)


def assert_uncorrelated(*numbers):
    """Correlations of a thousand draws that are independent are within 0.15 of zero."""
    assert min(np.std(n) for n in numbers) > 1e-3
    assert np.abs(np.corrcoef(numbers) - np.eye(len(numbers))).max() < 0.15


def test_angle_shift_slant_and_zoom_are_drawn_apart():
    linear, offset = drawn_maps(1000, rotation=30.0, shift=0.2, shear=20.0, zoom=0.2)
    angle = np.arctan2(linear[:, 0, 1], linear[:, 1, 1])
    turn_back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    rows, columns, linear = *(turn_back @ offset)[..., 0].T, turn_back @ linear
    slant = np.arctan2(-linear[:, 1, 0], linear[:, 0, 0])
    assert np.abs(slant).max() < np.deg2rad(20.1)
    assert_uncorrelated(angle, rows, columns, slant, linear[:, 0, 0] / np.cos(slant), linear[:, 1, 1])


def test_area_ratio_and_place_of_a_crop_are_drawn_apart():
    linear, offset = drawn_maps(2000, random_crop=0.1)
    sides = linear[:, [0, 1], [0, 1]]
    inside = (sides < 0.95).all(axis=1)  # others are cut off, and have hardly any place to choose
    sides, offset = sides[inside], offset[inside, :, 0]
    place = offset / (1 - sides) / [20, 10]
    assert np.abs(place).max() < 1.001
    assert_uncorrelated(sides.prod(axis=1), np.log(sides[:, 0] / sides[:, 1]), *place.T)


@pytest.mark.slow
def test_no_two_draws_share_a_key():
    """Of all settings together, for two examples."""
    whole = partial(augment.apply, policy(**STRENGTHS), num_classes=3)
    with keys_drawn_from() as keys:  # quickly compiled
        jax.jit(whole)(batch_of(images(2, 2, 2)), KEY)
    assert_all_differ(keys, at_least=2 * 22)


def test_the_guides_policy_stays_within_its_limits():
    """The maps that it draws: turned by at most 15°, shifted by at most a tenth, zoomed by at most a tenth."""
    draw = jax.jit(jax.vmap(lambda key: augment.random_map(policy("guide"), key, 40, 20)))
    maps = np.asarray(draw(jax.random.split(KEY, 500)))
    linear, offset = maps[:, :, :2], maps[:, :, 2]
    angles = np.rad2deg(np.arctan2(linear[:, 0, 1], linear[:, 1, 1]))
    assert 13 < np.abs(angles).max() < 15.2
    determinant = np.linalg.det(linear)
    assert 0.9**2 - 0.01 < determinant.min() < 0.85
    assert 1.15 < determinant.max() < 1.1**2 + 0.01
    assert 3.6 < np.abs(offset[:, 0]).max() < 4 + 2 * np.sin(np.deg2rad(15)) + 0.1
    assert POLICIES["guide"]["flip"] is True


def test_a_random_crop_lies_within_the_image():
    """On a picture of coordinates: what is seen is a rectangle of the share asked for, enlarged."""
    rows, columns = np.meshgrid(np.arange(40), np.arange(30), indexing="ij")
    x = np.broadcast_to(np.stack([rows / 39, columns / 29], axis=-1)[None], (300, 40, 30, 2)).astype(np.float32)
    maps = jax.vmap(lambda key: augment.random_map(policy(random_crop=0.2), key, 40, 30))(jax.random.split(KEY, 300))
    found = np.asarray(jax.jit(warp)(x, maps))
    sides = found[:, -1, -1] - found[:, 0, 0]
    share = sides.prod(axis=-1)
    assert share.min() > 0.15
    assert share.max() <= 1
    assert share.std() > 0.1
    ratio = sides[:, 1] / sides[:, 0]
    assert 0.7 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.4
    assert found[:, 0, 0, 0].std() > 0.05, "the place varies"


def test_erasing_covers_what_it_says():
    x = np.zeros((400, 20, 20, 1), np.float32)
    found = np.asarray(applied(policy(erase=0.25), batch_of(x), KEY)["image"]) > 0
    share = found.mean(axis=(1, 2, 3))
    assert 70 < (share > 0).sum() < 130
    assert share[share > 0].min() > 0.01
    assert share.max() < 0.45
    for erased in found[share > 0][:20, :, :, 0]:
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        assert erased.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1), "a rectangle"


def test_mixup_is_a_convex_sum_of_images_and_of_labels():
    x = images(6)
    before = np.roll(x, 1, axis=0)
    done = applied(policy(mixup=0.4), batch_of(x), KEY)
    found, labels = np.asarray(done["image"]), np.asarray(done["label"])
    weight = ((found - before) * (x - before)).sum(axis=(1, 2, 3)) / ((x - before) ** 2).sum(axis=(1, 2, 3))
    assert ((weight >= 0) & (weight <= 1)).all()
    mixed = weight[:, None, None, None]
    np.testing.assert_allclose(found, mixed * x + (1 - mixed) * before, atol=1e-5)
    eye = np.eye(3)[np.arange(6) % 3]
    np.testing.assert_allclose(
        labels, weight[:, None] * eye + (1 - weight[:, None]) * np.roll(eye, 1, axis=0), atol=1e-5
    )


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_there_is_not_is_no_mixture(label):
    x = images(3)
    done = applied(policy(mixup=0.4), {"image": x, "label": np.array([0, label, 1])}, KEY)
    np.testing.assert_array_equal(np.isnan(done["label"]).all(axis=1), [False, True, True])


def test_cutmix_pastes_a_rectangle_and_counts_its_pixels():
    x = images(50, 10, 10)
    before = np.roll(x, 1, axis=0)
    done = applied(policy(cutmix=1.0), batch_of(x), KEY)
    found, labels = np.asarray(done["image"]), np.asarray(done["label"])
    own, pasted = ((found == y).all(axis=-1) for y in (x, before))
    assert (own ^ pasted).all()
    eye = np.eye(3)[np.arange(50) % 3]
    share = own.mean(axis=(1, 2))[:, None]
    np.testing.assert_allclose(labels, share * eye + (1 - share) * np.roll(eye, 1, axis=0), atol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)


def test_mixup_and_cutmix_take_turns():
    x = images(64, 8, 8)
    done = np.asarray(applied(policy(mixup=1.0, cutmix=1.0), batch_of(x), KEY)["image"])
    pasted = ((done == x) | (done == np.roll(x, 1, axis=0))).all(axis=(1, 2, 3))
    assert 15 < pasted.sum() < 49


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("guid", {}, "unknown augmentation: 'guid'; known: guide"),
        ("none", {"rotate": 3}, "unknown setting of an augmentation: 'rotate'; known: rotation"),
        ("none", {"rotation": 200}, "rotation of an augmentation is from 0 to 180; got 200"),
        ("none", {"shift": -0.1}, "shift of an augmentation is from 0 to 1"),
        ("none", {"hue": 0.6}, r"from 0 to 0\.5"),
        ("none", {"flip": 0.5}, r"flip of an augmentation is True or False; got 0\.5"),
        ("none", {"erase": "often"}, "erase of an augmentation is a number; got 'often'"),
        ("none", {"zoom": True}, "zoom of an augmentation is a number"),
    ],
)
def test_policies_that_are_wrong(name, settings, message):
    with pytest.raises(ValueError, match=message):
        policy(name, **settings)


def test_images_that_cannot_be_changed():
    policy("guide").require_shape((8, 8, 1))
    with pytest.raises(ValueError, match=r"images \[height, width, channels\]; these examples are \[64\]"):
        policy("guide").require_shape((64,))
    with pytest.raises(ValueError, match="saturation and hue need images of 3 channels; these have 1"):
        policy("imagenet").require_shape((8, 8, 1))
