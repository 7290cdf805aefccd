"""Peers in PyTorch: eager, or through `torch.compile`. Images are channels last, and the thread settings PyTorch's."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from train.measure.peers import pytorch_networks, pytorch_text
from train.measure.peers.pytorch_networks import Steps
from train.measure.peers.work import GENERATED, LEAD_IN, Peer, Work
from train.measure.turns import Turn, timed


def torch_peer(work: Work, *, compiled: bool = False) -> Peer:
    """What `zoo.create_model(work.name, **work.options)` and its task do, in PyTorch.

    Args:
      work: what is measured.
      compiled: whether a whole step, with its gradient and the optimizer, goes through `torch.compile` in its default
        mode; of a GAN only the networks do.

    Raises:
      ValueError: PyTorch is not installed, or nothing is known there to compare with.
    """
    try:
        import torch
    except ImportError:
        raise ValueError('PyTorch is not installed; pip install "flaxzoo[bench]"') from None
    make = pytorch_text.NETWORKS.get(work.name, pytorch_networks.make)
    steps: Steps = make(torch, work)
    faster: Callable[[Any], Any] = torch.compile if compiled else lambda step: step
    parts = {
        "inference": partial(_inference, torch, steps, faster),
        "train": partial(_train, steps, faster, compiled),
    }
    if work.name == "char_lstm":
        parts["generate"] = partial(_generate, torch, steps.network, faster)
    if work.name == "mlp":
        parts["epoch"] = partial(_epoch, torch, steps.network, work, faster)
    return Peer(sum(p.numel() for p in steps.network.parameters()), parts)


def _inference(torch: Any, steps: Steps, faster: Callable[[Any], Any]) -> Turn:
    steps.network.eval()
    infer = faster(steps.infer)

    def step() -> Any:
        with torch.inference_mode():
            return infer()

    return timed(step)


def _train(steps: Steps, faster: Callable[[Any], Any], compiled: bool) -> Turn:
    steps.network.train()
    if not steps.apart:
        return timed(faster(steps.train))
    if compiled:
        for network in steps.apart:
            network.compile()
    return timed(steps.train)


def _generate(torch: Any, network: Any, faster: Callable[[Any], Any]) -> Turn:
    """A loop over single characters, whose state is carried on."""
    network.eval()

    def write(token: Any, state: Any) -> Any:
        logits, state = network.step(token, state)
        return torch.multinomial(logits.softmax(dim=-1), 1), state

    write = faster(write)

    def text() -> Any:
        token, state, tokens = torch.zeros((1, 1), dtype=torch.int64), None, []
        with torch.inference_mode():
            for _ in range(GENERATED):
                token, state = write(token, state)
                tokens.append(token)
            return torch.cat(tokens, dim=1).tolist()

    return timed(text)


def _epoch(torch: Any, network: Any, work: Work, faster: Callable[[Any], Any]) -> Turn:
    """Epochs over rows in memory, in an order drawn anew, with Adam, and loss and accuracy reported."""
    size = len(work.batch["image"])
    images = torch.from_numpy(np.ascontiguousarray(work.rows["image"]))
    labels = torch.from_numpy(work.rows["label"].astype(np.int64))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network.train()

    def train(x: Any, y: Any) -> tuple[Any, Any]:
        optimizer.zero_grad(set_to_none=True)
        logits = network(x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        return loss.detach(), (logits.argmax(dim=1) == y).sum()

    train = faster(train)

    def epoch() -> float:
        lost, right = torch.zeros(()), torch.zeros(())
        order = torch.randperm(len(images))[: len(images) // size * size]
        for rows in order.split(size):
            loss, hits = train(images[rows], labels[rows])
            lost += loss
            right += hits
        return float(lost) * size / len(order)

    def turn(count: int) -> tuple[float, Any]:
        for _ in range(LEAD_IN):
            epoch()
        began = time.perf_counter()
        losses = [epoch() for _ in range(count)]
        return (time.perf_counter() - began) / count, losses[-1]

    return turn
