"""Augmentation on the device: training images changed at random inside the compiled step.

    policy = augment.policy("guide", flip=False)
    batch = augment.apply(policy, batch, key)

Everything is a pure function of images [batch, height, width, channels] in [0, 1] and a key; each example has draws of
its own. What moves pixels is one map of coordinates for each image, resampled once.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from data.scaling import to_unit

Key = jax.Array


@dataclass(frozen=True)
class Policy:
    """What is done to training images, each with strengths drawn anew; the defaults do nothing.

    Attributes:
        rotation: largest angle in degrees, to either side.
        shift: largest shift up, down, left and right, as a share of the height and of the width.
        shear: largest angle of shearing in degrees, to either side.
        zoom: height and width are multiplied by numbers from 1 - zoom to 1 + zoom.
        random_crop: least share of the area that a random crop keeps (1 keeps all), of an aspect ratio from 3/4 to 4/3;
            it is enlarged to the whole (Szegedy et al. 2015). 0 for no crop.
        flip: mirrors every other image, left to right.
        vertical_flip: mirrors every other image, top to bottom.
        brightness: values are multiplied by 1 - brightness to 1 + brightness.
        contrast: likewise, the distances of values to the image's mean in grey.
        saturation: likewise, the distances of values to their pixel's grey.
        hue: largest turn of the hue, as a share of the circle, at most 0.5.
        erase: probability that a random rectangle becomes noise (Zhong et al. 2017).
        mixup: α of the distribution Beta(α, α) of the weight of one of two images (Zhang et al. 2018). Labels become
            probabilities. 0 for none.
        cutmix: α likewise, of the share of the area that is not pasted over (Yun et al. 2019). With both, every other
            image has one of the two.

    Raises:
        ValueError: if a number is out of its range.
    """

    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    random_crop: float = 0.0
    flip: bool = False
    vertical_flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self):
        limits = {"rotation": 180, "shear": 89, "hue": 0.5, "mixup": math.inf, "cutmix": math.inf}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise ValueError(f"{field.name} of an augmentation is True or False; got {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{field.name} of an augmentation is a number; got {value!r}")
            elif not 0 <= value <= limits.get(field.name, 1):
                raise ValueError(
                    f"{field.name} of an augmentation is from 0 to {limits.get(field.name, 1)}; got {value}"
                )

    @property
    def moves(self) -> bool:
        """Whether images are resampled."""
        return any((self.rotation, self.shift, self.shear, self.zoom, self.random_crop))

    def require_shape(self, shape: tuple[int, ...]) -> None:
        """Refuses images that this policy cannot change.

        Raises:
            ValueError: if they are no images [height, width, channels], or grey where colours are to be changed.
        """
        if len(shape) != 3:
            raise ValueError(f"augmentation changes images [height, width, channels]; these examples are {list(shape)}")
        if shape[-1] != 3 and (self.saturation or self.hue):
            raise ValueError(f"saturation and hue need images of 3 channels; these have {shape[-1]}")


POLICIES: dict[str, Mapping[str, Any]] = {
    "none": {},
    # The guide's ImageDataGenerator (section 12.1). Its angle of shearing is a tenth of a degree, as Keras reads it.
    "guide": {"rotation": 15.0, "shift": 0.1, "shear": 0.1, "zoom": 0.1, "flip": True},
    # Krizhevsky & Hinton's data set as He et al. 2015 train on it: shifts by 4 of 32 pixels and mirror images.
    "cifar": {"shift": 0.125, "flip": True},
    # As torchvision and timm train on ImageNet.
    "imagenet": {"random_crop": 0.08, "flip": True, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
}
"""Settings by name."""


def policy(name: str = "none", **options: Any) -> Policy:
    """A policy by name, with some of its settings replaced.

    Raises:
        ValueError: if the name or a setting is not known, or a value not possible.
    """
    known = [field.name for field in fields(Policy)]
    for what, word, words in (
        ("augmentation", name, list(POLICIES)),
        *(("setting of an augmentation", option, known) for option in options),
    ):
        if word not in words:
            near = difflib.get_close_matches(word, words, n=3) or words
            raise ValueError(f"unknown {what}: {word!r}; known: {', '.join(near)}")
    return Policy(**{**POLICIES[name], **options})


def apply(policy: Policy, batch: Mapping[str, Any], key: Key, *, num_classes: int = 0) -> dict[str, Any]:
    """The batch with its images changed, and its labels mixed where they are.

    Args:
        policy: what to do.
        batch: `image` [batch, height, width, channels], uint8 or in [0, 1]; for mixing `label` too, integer [batch].
        key: of this step.
        num_classes: for mixing, which makes the labels probabilities [batch, num_classes].
    """
    image = to_unit(batch["image"])
    keys = jax.random.split(jax.random.fold_in(key, 0), len(image))
    if policy.moves:
        maps = jax.vmap(lambda key: random_map(policy, key, image.shape[1], image.shape[2]))(_each(keys, 0))
        image = warp(image, maps)
    for mirrored, axis in ((policy.flip, 1), (policy.vertical_flip, 0)):
        if mirrored:
            image = jax.vmap(lambda key, x, axis=axis: random_flip(key, x, axis))(_each(keys, 1 + axis), image)
    if any((policy.brightness, policy.contrast, policy.saturation, policy.hue)):
        image = jax.vmap(lambda key, x: jitter(policy, key, x))(_each(keys, 3), image)
    if policy.erase:
        image = jax.vmap(lambda key, x: random_erasing(key, x, policy.erase))(_each(keys, 4), image)
    batch = {**batch, "image": image}
    if policy.mixup or policy.cutmix:
        if "sample_weight" in batch:
            raise ValueError("an example that is mixed of two has no sample_weight; turn mixup and cutmix off")
        label = jnp.asarray(batch["label"])
        known = (label >= 0) & (label < num_classes)  # the loss of a class that there is not must be no number
        label = jnp.where(known[:, None], jax.nn.one_hot(label, num_classes), jnp.nan)
        batch |= mix(policy, _each(keys, 5), image, label)
    return batch


def _each(keys: Key, purpose: int) -> Key:
    return jax.vmap(lambda key: jax.random.fold_in(key, purpose))(keys)


def random_map(policy: Policy, key: Key, height: int, width: int) -> jax.Array:
    """A map of coordinates for `warp`, [2, 3], drawn by the policy: turn, shift, shear, zoom and crop."""
    turn, shift, shear, zoom, area, ratio, where = jax.random.split(key, 7)

    def uniform(key: Key, least: float, most: float, shape: tuple[int, ...] = ()) -> jax.Array:
        return jax.random.uniform(key, shape, minval=least, maxval=most)

    radians = math.pi / 180
    angle = uniform(turn, -policy.rotation, policy.rotation) * radians
    slant = uniform(shear, -policy.shear, policy.shear) * radians
    offset = uniform(shift, -policy.shift, policy.shift, (2,)) * jnp.array([height, width])
    scale = uniform(zoom, 1 - policy.zoom, 1 + policy.zoom, (2,))
    rows = affine(angle, offset, slant, scale)
    if policy.random_crop:
        share = uniform(area, policy.random_crop, 1)
        aspect = jnp.exp(uniform(ratio, math.log(3 / 4), math.log(4 / 3)))
        sides = jnp.minimum(jnp.sqrt(share * jnp.stack([1 / aspect, aspect])), 1)
        middle = (1 - sides) / 2 * uniform(where, -1, 1, (2,)) * jnp.array([height, width])
        rows = _compose(rows, jnp.concatenate([jnp.diag(sides), middle[:, None]], axis=1))
    return rows


def affine(angle: Any, offset: Any, slant: Any, scale: Any) -> jax.Array:
    """The map [2, 3] that turns, shifts, shears and zooms, as Keras's `apply_affine_transform` composes them.

    Args:
        angle: in radians.
        offset: rows and columns, [2].
        slant: of the shearing, in radians.
        scale: of rows and columns, [2]; above 1 makes things smaller.
    """
    zero, one = jnp.zeros(()), jnp.ones(())

    def rows(*entries: Any) -> jax.Array:
        return jnp.stack([jnp.asarray(entry, jnp.float32) for entry in entries]).reshape(2, 3)

    turned = rows(jnp.cos(angle), jnp.sin(angle), zero, -jnp.sin(angle), jnp.cos(angle), zero)
    shifted = rows(one, zero, offset[0], zero, one, offset[1])
    sheared = rows(jnp.cos(slant), zero, zero, -jnp.sin(slant), one, zero)
    zoomed = rows(scale[0], zero, zero, zero, scale[1], zero)
    return _compose(_compose(_compose(turned, shifted), sheared), zoomed)


def _compose(outer: jax.Array, inner: jax.Array) -> jax.Array:
    product = jnp.matmul(outer[:, :2], inner, precision=lax.Precision.HIGHEST)
    return product.at[:, 2].add(outer[:, 2])


def warp(images: jax.Array, maps: jax.Array) -> jax.Array:
    """Resamples images bilinearly; beyond the edge lie the pixels of the edge.

    Args:
        images: [batch, height, width, channels].
        maps: from the place of a pixel to the place that it is taken from, (row, column, 1) relative to the image's
            centre, [batch, 2, 3].
    """
    batch, height, width, channels = images.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2], jnp.float32)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), axis=-1).reshape(-1, 2)
    relative = grid - centre[None]
    places = jnp.einsum("bij,pj->bpi", maps[:, :, :2], relative, precision=lax.Precision.HIGHEST)
    places = places + maps[:, None, :, 2] + centre[None, None]
    places = jnp.round(places * 1024) / 1024  # so that quarter turns are exact
    last = jnp.array([height - 1, width - 1])[None, None]
    places = jnp.clip(places, 0, last.astype(jnp.float32))
    low = jnp.floor(places).astype(jnp.int32)
    high = jnp.minimum(low + 1, last)
    part = (places - low).astype(images.dtype)
    flat = images.reshape(batch, height * width, channels)

    def at(rows: jax.Array, columns: jax.Array) -> jax.Array:
        return jnp.take_along_axis(flat, (rows * width + columns)[..., None], axis=1)

    down, right = part[..., :1], part[..., 1:]
    top = at(low[..., 0], low[..., 1]) * (1 - right) + at(low[..., 0], high[..., 1]) * right
    bottom = at(high[..., 0], low[..., 1]) * (1 - right) + at(high[..., 0], high[..., 1]) * right
    return (top * (1 - down) + bottom * down).reshape(images.shape)


def random_flip(key: Key, image: jax.Array, axis: int) -> jax.Array:
    """An image [height, width, channels], mirrored along an axis with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), jnp.flip(image, axis), image)


def jitter(policy: Policy, key: Key, image: jax.Array) -> jax.Array:
    """An image [height, width, channels] with other brightness, contrast, saturation and hue, in this order."""
    keys = jax.random.split(key, 4)

    def factor(index: int, strength: float) -> jax.Array:
        return jax.random.uniform(keys[index], minval=1 - strength, maxval=1 + strength)

    if policy.brightness:
        image = blend(image, jnp.zeros_like(image), factor(0, policy.brightness))
    if policy.contrast:
        image = blend(image, jnp.full_like(image, grey(image).mean()), factor(1, policy.contrast))
    if policy.saturation:
        image = blend(image, jnp.broadcast_to(grey(image), image.shape), factor(2, policy.saturation))
    if policy.hue:
        image = turn_hue(image, jax.random.uniform(keys[3], minval=-policy.hue, maxval=policy.hue))
    return image


def grey(image: jax.Array) -> jax.Array:
    """Luma (ITU-R 601) of [height, width, 3 or 1], [height, width, 1]."""
    if image.shape[-1] == 1:
        return image
    weights = jnp.array([0.299, 0.587, 0.114], image.dtype)
    return (image * weights[None, None]).sum(axis=-1, keepdims=True)


def blend(image: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    """share · image + (1 - share) · other, kept in [0, 1]; a share above 1 leads away from the other."""
    return jnp.clip(share * image + (1 - share) * other, 0, 1)


def turn_hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """[height, width, 3] with the hue of HSV turned by a share of the circle; value and saturation stay."""
    value = image.max(axis=-1, keepdims=True)
    chroma = value - image.min(axis=-1, keepdims=True)
    red, green, blue = (image[..., channel : channel + 1] for channel in range(3))
    safe = jnp.where(chroma == 0, 1, chroma)
    sixths = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    # Each channel is highest within one sixth of its own hue, and falls to the least over the next.
    distance = (sixths + 6 * turn + jnp.array([5.0, 3.0, 1.0])[None, None]) % 6
    return value - chroma * jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)


def random_erasing(key: Key, image: jax.Array, probability: float) -> jax.Array:
    """An image [height, width, channels] in which a rectangle of 2 to 40 % of the area became noise, or not."""
    whether, area, ratio, place, noise = jax.random.split(key, 5)
    share = jax.random.uniform(area, minval=0.02, maxval=0.4)
    aspect = jnp.exp(jax.random.uniform(ratio, minval=math.log(0.3), maxval=math.log(1 / 0.3)))
    inside = _rectangle(jax.random.uniform(place, (2,)), jnp.sqrt(share * jnp.stack([1 / aspect, aspect])), image)
    erased = jax.random.bernoulli(whether, probability) & inside
    return jnp.where(erased, jax.random.uniform(noise, image.shape, image.dtype), image)


def _rectangle(place: jax.Array, sides: jax.Array, image: jax.Array) -> jax.Array:
    """Where a rectangle lies, boolean [height, width, 1]; `place` and `sides` are shares of height and width, [2]."""
    size = jnp.array(image.shape[:2])
    length = jnp.clip(jnp.round(sides * size), 1, size)
    start = jnp.floor(place * (size - length + 1))
    rows, columns = jnp.arange(image.shape[0])[:, None], jnp.arange(image.shape[1])[None]
    down = (rows >= start[0]) & (rows < start[0] + length[0])
    return (down & (columns >= start[1]) & (columns < start[1] + length[1]))[..., None]


def mix(policy: Policy, keys: Key, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Mixes each image, and its label, with those of the example before it: as a weighted sum, or as a pasted part.

    Args:
        policy: `mixup` and `cutmix`.
        keys: one for each example.
        images: [batch, height, width, channels].
        labels: probabilities, [batch, classes].
    """

    def one(key: Key, image: jax.Array, label: jax.Array, other: jax.Array, its_label: jax.Array) -> Any:
        which, weight, share, place = jax.random.split(key, 4)
        pasted, kept_share = image, jnp.ones(())
        if policy.cutmix:
            side = jnp.sqrt(1 - jax.random.beta(share, policy.cutmix, policy.cutmix))
            inside = _rectangle(jax.random.uniform(place, (2,)), jnp.stack([side, side]), image)
            pasted, kept_share = jnp.where(inside, other, image), 1 - inside.mean()
        summed, kept_weight = image, jnp.ones(())
        if policy.mixup:
            kept_weight = jax.random.beta(weight, policy.mixup, policy.mixup)
            summed = kept_weight * image + (1 - kept_weight) * other
        chance = 0.5 if policy.mixup and policy.cutmix else float(policy.cutmix > 0)
        paste = jax.random.bernoulli(which, chance)
        kept = jnp.where(paste, kept_share, kept_weight)
        return jnp.where(paste, pasted, summed), kept * label + (1 - kept) * its_label

    before = jnp.roll(images, 1, axis=0), jnp.roll(labels, 1, axis=0)
    image, label = jax.vmap(one)(keys, images, labels, *before)
    return {"image": image, "label": label}
