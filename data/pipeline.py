"""Which examples make up which step, as a pure function of (seed, step), and reading them ahead on the host."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from data.dataset import Batch, Source

TEST_SEED = 2**64 - 2
"""Of the shuffle for a test split, always the same: another seed of the training must not move examples into it."""


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Number of whole batches in an epoch; what remains is left out, other examples in each epoch.

    Raises:
        ValueError: if there is not one whole batch.
    """
    if not 1 <= batch_size <= num_examples:
        raise ValueError(
            f"batch_size must be from 1 to the number of training examples, {num_examples}; got {batch_size}"
            + (f": set batch_size={num_examples} or less" if batch_size > num_examples else "")
        )
    return num_examples // batch_size


@lru_cache(maxsize=4)
def permutation(seed: int, num_examples: int, epoch: int) -> np.ndarray:
    """The order of an epoch, int32 [num_examples], read-only."""
    # NumPy promises the same raw bits in every version, but not the same shuffle: so sort random high halves, with the
    # index in the low half.
    key = np.array([seed % 2**64, epoch % 2**64], np.uint64)
    high = np.random.Philox(key=key).random_raw(num_examples) >> 32 << 32
    order = np.sort(high | np.arange(num_examples, dtype=np.uint64)).astype(np.uint32).astype(np.int32)
    order.flags.writeable = False
    return order


def batch_indices(seed: int, num_examples: int, batch_size: int, start: int, count: int = 1) -> np.ndarray:
    """The examples of steps `start` to `start + count - 1`, int32 [count, batch_size].

    Each epoch is a permutation that depends on (seed, epoch) only, cut into `steps_per_epoch` batches.

    Raises:
        ValueError: if there is not one whole batch in an epoch, if `start` < 0 or if `count` < 1.
    """
    steps = steps_per_epoch(num_examples, batch_size)
    if start < 0 or count < 1:
        raise ValueError(f"start must be at least 0 and count at least 1; got start={start}, count={count}")
    stop = start + count
    epochs = range(start // steps, (stop - 1) // steps + 1)
    orders = [permutation(seed, num_examples, epoch)[: steps * batch_size] for epoch in epochs]
    first = epochs.start * steps
    return np.concatenate(orders).reshape(-1, batch_size)[start - first : stop - first]


def held_out(
    num_examples: int,
    amount: float | int,
    seed: int,
    *,
    what: str,
    where: str,
    epoch: int = -1,
    labels: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The examples of two parts, in order: those that stay, and those held out by a seeded shuffle.

    Args:
        num_examples: of both together.
        amount: held out, as a fraction in (0, 1) or as a number.
        seed: of the shuffle.
        what: the option that asks for it, for the error.
        where: what the examples are taken from, likewise.
        epoch: negative, so that it is no epoch's order; another number, another shuffle.
        labels: the class of each example, integer [example]. Where they are given, the same share of each class is held
            out, to within one example, and the last example of a class stays.

    Raises:
        ValueError: if either part would be empty.
    """
    whole = isinstance(amount, int) and not isinstance(amount, bool)
    share = isinstance(amount, float) and 0 < amount < 1
    held = amount if whole else round(amount * num_examples) if share else 0
    if not 0 < held < num_examples:
        raise ValueError(
            f"{what} must be 0, a fraction in (0, 1) or a number of examples from 1 to {num_examples - 1}, and leave "
            f"at least one example on each side; got {amount!r} of the {num_examples} of {where}"
        )
    order = permutation(seed, num_examples, epoch)
    if labels is not None:
        order = _by_turns(order, labels)
    return np.sort(order[held:]), np.sort(order[:held])


def _by_turns(order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The order with the classes spread evenly: any beginning of it has the same share of each class."""
    of_class = labels[order]
    sizes = np.bincount(of_class)
    place = np.empty(len(order), np.int64)  # of each example among those of its class
    for label in np.flatnonzero(sizes):
        place[of_class == label] = np.arange(sizes[label])
    # In the middle of its equal part of [0, 1]; the last one of each class comes behind all others.
    when = np.where(place == sizes[of_class] - 1, 2.0, (place + 0.5) / sizes[of_class])
    return order[np.argsort(when, kind="stable")]


# Threads and a deque, not grain: grain takes no iterator of batches, and its import alone costs more than a second.
def prefetch(
    source: Source,
    batches: Iterable[np.ndarray],
    preprocess: Callable[[Batch], Batch],
    num_threads: int = 2,
    buffer: int = 2,
) -> Iterator[Batch]:
    """Reads and prepares batches in background threads, in order.

    Args:
        source: raw examples; its `__getitem__` must be safe to call from several threads.
        batches: the indices of each batch. Consumed no further than `buffer` batches ahead.
        preprocess: raw batch -> batch.
        num_threads: batches worked on at once.
        buffer: batches read ahead while the consumer works on one.

    Yields:
        `preprocess(source[indices])` for each of `batches`. What these raise is raised here, at the batch's turn.
        Closing the iterator ends the threads.
    """

    def read(indices: np.ndarray) -> Batch:
        return preprocess(source[indices])

    pending: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="prefetch") as pool:
        try:
            for indices in batches:
                pending.append(pool.submit(read, indices))
                if len(pending) > buffer:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
