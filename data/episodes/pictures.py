"""Episodes of N classes with K pictures each, drawn on the device from pictures sorted by class."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data.dataset import ArraySource, Batch, Dataset, Field, LazySplits, Reader, Source, Spec

if TYPE_CHECKING:
    import jax  # whoever but asks for a data set need not wait for it

SPLITS = ("train", "validation", "test")


class Shape(NamedTuple):
    """What an episode holds.

    Attributes:
        ways: N, its classes.
        shots: K, the pictures of each class that are learned from.
        queries: the pictures of each class that are told.
    """

    ways: int
    shots: int
    queries: int


class Pictures(NamedTuple):
    """Pictures sorted by class.

    Attributes:
        images: uint8 [picture, height, width, channels].
        counts: how many each class has, int32 [class].
        names: of the classes.
    """

    images: np.ndarray
    counts: np.ndarray
    names: Sequence[str]


class EpisodeSource(ArraySource):
    """Tasks by number. Task i is a pure function of (seed, i): neither order nor device changes it.

    Args:
        pictures: what is drawn from.
        shape: of an episode.
        episodes: how many there are.
        seed: of the draws.
        rotations: whether a class turned by 90, 180 and 270 degrees is a class of its own.
        what: the split, for errors.

    Raises:
        ValueError: if there are fewer classes than ways, or fewer pictures in a class than shots and queries.
    """

    def __init__(self, pictures: Pictures, shape: Shape, episodes: int, seed: int, *, rotations: bool, what: str):
        self.arrays = {
            "picture": pictures.images,
            "first": (np.cumsum(pictures.counts) - pictures.counts).astype(np.int32),
            "count": pictures.counts.astype(np.int32),
        }
        self._shape, self._episodes, self._seed, self._turns = shape, episodes, seed, 4 if rotations else 1
        num_classes = len(pictures.counts) * self._turns
        if num_classes < shape.ways:
            raise ValueError(
                f"{what} has {num_classes} classes, and an episode takes {shape.ways} (ways); take fewer ways or more "
                "classes"
            )
        needed, least = shape.shots + shape.queries, int(np.argmin(pictures.counts))
        if pictures.counts[least] < needed:
            raise ValueError(
                f"the class {pictures.names[least]!r} of {what} has {pictures.counts[least]} pictures, and an episode "
                f"takes {shape.shots} shots + {shape.queries} queries = {needed} of a class; take fewer, or add some"
            )
        self._most = int(pictures.counts.max())

    def __len__(self) -> int:
        return self._episodes

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        import jax

        # The numbers are drawn as on a device; the pictures themselves stay on the host.
        drawn = jax.jit(self._draw)(self.arrays["first"], self.arrays["count"], np.asarray(indices, np.int32))
        rows, turns = (np.asarray(part) for part in drawn)
        images = self.arrays["picture"][rows]
        turned = [np.rot90(images, k, axes=(3, 4)) for k in range(self._turns)]
        return self._batch(np.choose(turns[..., None, None, None, None], turned) if self._turns > 1 else images, np)

    def gather(self, arrays: Any, indices: Any) -> Any:
        """The episodes `indices`: `support_image` [episode, ways · shots, height, width, channels] and so on."""
        import jax.numpy as jnp

        rows, turns = self._draw(arrays["first"], arrays["count"], indices)
        images = arrays["picture"][rows]
        if self._turns > 1:
            turned = jnp.stack([jnp.rot90(images, k, axes=(3, 4)) for k in range(self._turns)])
            here = jnp.arange(self._turns).reshape(-1, *[1] * images.ndim) == turns[None, ..., None, None, None, None]
            images = jnp.where(here, turned, 0).sum(axis=0, dtype=images.dtype)
        return self._batch(images, jnp)

    def _draw(self, first: Any, count: Any, indices: Any) -> tuple[Any, Any]:
        """Rows of pictures [episode, ways, shots + queries], and quarter turns of classes [episode, ways]."""
        import jax
        import jax.numpy as jnp

        shape, turns = self._shape, self._turns

        def draw(index: jax.Array) -> tuple[jax.Array, jax.Array]:
            of_classes, of_pictures = jax.random.split(jax.random.fold_in(jax.random.key(self._seed), index))
            # The greatest of random numbers are a sample without replacement in random order.
            _, classes = jax.lax.top_k(jax.random.uniform(of_classes, (len(count) * turns,)), shape.ways)
            kind, turn = classes // turns, classes % turns
            score = jax.random.uniform(of_pictures, (shape.ways, self._most))
            score = jnp.where(jnp.arange(self._most)[None] < count[kind][:, None], score, -1)
            _, pictures = jax.lax.top_k(score, shape.shots + shape.queries)
            return first[kind][:, None] + pictures, turn

        return jax.vmap(draw)(jnp.asarray(indices))

    def _batch(self, images: Any, of: Any) -> Any:
        """[episode, ways, shots + queries, …] → the fields, shot by shot, the classes of each side by side."""
        shape, episodes = self._shape, len(images)

        def part(images: Any) -> Any:
            return images.swapaxes(1, 2).reshape(episodes, -1, *images.shape[3:])

        def labels(each: int) -> Any:
            return of.broadcast_to(
                of.tile(of.arange(shape.ways, dtype=np.int32), each)[None], (episodes, each * shape.ways)
            )

        return {
            "support_image": part(images[:, :, : shape.shots]),
            "support_label": labels(shape.shots),
            "query_image": part(images[:, :, shape.shots :]),
            "query_label": labels(shape.queries),
        }


class Protocol(NamedTuple):
    """The shapes of episodes and how many there are; what the builders of data sets share.

    Attributes:
        train: the shape in training.
        test: the shape in validation and test.
        episodes: how many tasks training has, validation has, and the test has.
    """

    train: Shape
    test: Shape
    episodes: tuple[int, int, int]

    @classmethod
    def of(
        cls,
        *,
        ways: int,
        shots: int,
        queries: int,
        train_ways: int | None,
        train_shots: int | None,
        train_queries: int | None,
        episodes: int,
        test_episodes: int,
    ) -> Protocol:
        """From the options of a data set; what is None for training is as in the test.

        Raises:
            ValueError: if a number is too small.
        """
        test = Shape(ways, shots, queries)
        train = Shape(
            ways if train_ways is None else train_ways,
            shots if train_shots is None else train_shots,
            queries if train_queries is None else train_queries,
        )
        for name, value, least in (
            ("ways", min(test.ways, train.ways), 2),
            ("shots", min(test.shots, train.shots), 1),
            ("queries", min(test.queries, train.queries), 1),
            ("episodes", min(episodes, test_episodes), 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}")
        return cls(train, test, (episodes, max(1, min(test_episodes, 200)), test_episodes))


def dataset(
    name: str,
    protocol: Protocol,
    read: Callable[[], Mapping[str, Pictures]],
    preprocess: Callable[[Any], Any],
    reader: Reader,
    *,
    seed: int,
    rotations: bool = False,
) -> Dataset:
    """A data set of episodes: `preprocess` is of batches of pictures, under "image".

    The tasks of validation and test do not depend on the seed of the training.
    """

    def sources() -> dict[str, Source]:
        pictures = read()
        return {
            split: EpisodeSource(
                pictures[split],
                protocol.train if split == "train" else protocol.test,
                episodes,
                seed if split == "train" else 2**32 - 1 - place,
                rotations=rotations,
                what=f"the {split} split of {name!r}",
            )
            for place, (split, episodes) in enumerate(zip(SPLITS, protocol.episodes, strict=True))
        }

    def prepared(batch: Any) -> Any:
        changed = {}
        for field in ("support_image", "query_image"):
            images = batch[field]
            flat = preprocess({"image": images.reshape(-1, *images.shape[-3:])})["image"]
            changed[field] = flat.reshape(*images.shape[:2], *flat.shape[1:])
        return {**batch, **changed}

    shape = protocol.train
    fields = {}
    for part, each in (("support", shape.shots), ("query", shape.queries)):
        fields[f"{part}_image"] = Field((shape.ways * each, *reader.shape), "float32")
        fields[f"{part}_label"] = Field((shape.ways * each,), "int32")
    return Dataset(
        name=name,
        spec=Spec(fields, tuple(f"class {index + 1}" for index in range(shape.ways))),
        splits=LazySplits(SPLITS, functools.cache(sources)),
        preprocess=prepared,
        image_shape=(reader.shape[0], reader.shape[1], reader.shape[2]),
        reader=reader,
    )
