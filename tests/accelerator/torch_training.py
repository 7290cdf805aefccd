"""The same train steps in PyTorch: `torch.compile`, autocast to bfloat16, fused AdamW, channels last, SDPA."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.accelerator.cases import Case, Model, batch_of
from tests.accelerator.worker import Prepared
from train.measure.peers.pytorch_networks import import_timm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

torch.backends.cudnn.benchmark = True
torch.set_float32_matmul_precision("high")
torch.manual_seed(0)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        batch, time_, width = x.shape
        q, k, v = self.qkv(x).view(batch, time_, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, time_, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """GPT-2 as nanoGPT writes it: one product for queries, keys and values, and the embeddings as the head."""

    def __init__(
        self,
        vocab_size: int = 50_257,
        max_len: int = 1024,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, hidden_size), nn.Embedding(max_len, hidden_size)
        self.blocks = nn.Sequential(*(Block(hidden_size, num_heads) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(hidden_size)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Any) -> Any:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)


def network_of(model: Model) -> Any:
    if model.kind == "text":
        return GPT(**{name: value for name, value in model.options.items() if name != "dropout_rate"})
    timm = import_timm(torch)
    sized = {"img_size": model.size} if model.zoo.startswith("vit") else {}
    return timm.create_model(model.zoo, **sized).to(memory_format=torch.channels_last)


_trained: dict[str, tuple[Any, Any]] = {}
"""Network and optimizer by model; batches of several sizes share them."""


def prepare(case: Case) -> Prepared:
    model = case.model
    if model.name not in _trained:
        network = network_of(model).to(DEVICE).train()
        _trained[model.name] = network, torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    network, optimizer = _trained[model.name]
    batch = {name: torch.from_numpy(array).to(DEVICE) for name, array in batch_of(model, case.batch).items()}
    if model.kind == "text":
        tokens = batch["tokens"].long()
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()
    else:
        inputs = batch["image"].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        targets = batch["label"].long()

    def loss_of(inputs: Any, targets: Any) -> Any:
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = network(inputs)
            return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets)

    compiled = torch.compile(loss_of, dynamic=False)
    last = [float("nan")]

    def run(steps: int) -> float:
        began = time.perf_counter()
        loss: Any = None
        for _ in range(steps):
            loss = compiled(inputs, targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        last[0] = loss.item()  # waits for all steps
        synchronize()
        return time.perf_counter() - began

    try:
        seconds = run(1)
    finally:
        release()

    def after() -> dict[str, Any]:
        used = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None
        release()
        return {"loss": last[0], "peak_memory": used}

    return Prepared(run, {"compile_seconds": seconds}, after)


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def release() -> None:
    """Gives memory back for the processes beside this one, and forgets the peak."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
