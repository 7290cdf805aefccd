"""The same models in other libraries, as their users would write them, to be measured beside ours.

All compute in float32, and train with AdamW. The libraries are an extra: `pip install "flaxzoo[bench]"`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from train.measure.peers.work import Peer, Work
from train.measure.processes import beside as _beside


def _torch(work: Work) -> Peer:
    from train.measure.peers.pytorch import torch_peer

    return torch_peer(work)


def _torch_compile(work: Work) -> Peer:
    from train.measure.peers.pytorch import torch_peer

    return torch_peer(work, compiled=True)


def _keras(work: Work) -> Peer:
    from train.measure.peers.keras_steps import keras_peer

    return keras_peer(work, "jax")


def _tensorflow(work: Work) -> Peer:
    from train.measure.peers.keras_steps import keras_peer

    return keras_peer(work, "tensorflow")


PEERS: dict[str, Callable[[Work], Peer]] = {
    "torch": _torch,
    "torch-compile": _torch_compile,
    "keras": _keras,
    "tensorflow": _tensorflow,
}
"""PyTorch, eager and through `torch.compile`; Keras 3 on JAX, and on TensorFlow."""


def require_known(names: Sequence[str]) -> None:
    """Refuses peers that there are not.

    Raises:
      ValueError: names it, and those that there are.
    """
    if wrong := [name for name in names if name not in PEERS]:
        raise ValueError(f"there is no {wrong[0]!r} to compare with; there are {', '.join(PEERS)}")


@contextmanager
def beside(name: str, work: Work) -> Iterator[Callable[[str, int], float]]:
    """A peer in a process of its own, with memory and threads as its users have them: (part, steps) → seconds a step.

    Raises:
      ValueError: its library is not installed, or does not have the model.
    """
    with _beside(_turns, name, work) as turns:
        yield turns


def _turns(name: str, work: Work) -> Callable[[str, int], float]:
    peer = PEERS[name](work)
    if missing := [part for part in work.parts if part not in peer.parts]:
        raise ValueError(f"there is no {missing[0]!r} of {work.name!r} in {name} to compare with")
    turns = {}

    def take(part: str, count: int) -> float:
        if part not in turns:
            turns[part] = peer.parts[part]()
        return turns[part](count)[0]

    return take
