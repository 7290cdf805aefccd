"""Transformers on tokens in PyTorch, and their steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from train.measure.peers.pytorch_networks import Steps, import_timm, supervised
from train.measure.peers.work import Work, refuse


def _tokens(torch: Any, work: Work, field: str) -> Any:
    refuse({k: v for k, v in work.options.items() if k != "num_classes"}, work.name, "PyTorch")
    return torch.from_numpy(work.batch[field].astype(np.int64))


def _char_gpt(torch: Any, work: Work) -> Steps:
    """As in nanoGPT."""
    nn, functional = torch.nn, torch.nn.functional
    depth, heads, width, time, characters = 4, 4, 128, 64, 65

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
            self.attention = nn.Linear(width, 3 * width, bias=False)
            self.out = nn.Linear(width, width, bias=False)
            self.fc1, self.fc2 = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

        def forward(self, x: Any) -> Any:
            batch, length, _ = x.shape
            parts = self.attention(self.norm1(x)).split(width, dim=2)
            q, k, v = (part.view(batch, length, heads, width // heads).transpose(1, 2) for part in parts)
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).contiguous().view(batch, length, width))
            return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.positions = nn.Embedding(characters, width), nn.Embedding(time, width)
            self.blocks = nn.ModuleList(Block() for _ in range(depth))
            self.norm = nn.LayerNorm(width, bias=False)
            self.head = nn.Linear(width, characters, bias=False)
            self.embed.weight = self.head.weight
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, tokens: Any) -> Any:
            x = self.embed(tokens) + self.positions(torch.arange(tokens.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x)).view(-1, characters)

    tokens = _tokens(torch, work, "tokens")
    return supervised(torch, GPT(), tokens[:, :-1], tokens[:, 1:].flatten(), functional.cross_entropy)


def _classifier(torch: Any, work: Work) -> Steps:
    nn = torch.nn
    width, heads, units = 128, 8, 512
    tokens, labels = _tokens(torch, work, "image"), torch.from_numpy(work.batch["label"].astype(np.int64))
    angles = torch.arange(tokens.shape[1])[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10_000, width)
            self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], dim=1))
            self.block = nn.TransformerEncoderLayer(width, heads, units, 0.1, layer_norm_eps=1e-6, batch_first=True)
            self.block.self_attn.dropout = self.block.dropout.p = 0.0  # ours drops only what is added
            self.dropout = nn.Dropout(0.1)
            self.hidden, self.head = nn.Linear(width, 20), nn.Linear(20, work.outputs)

        def forward(self, tokens: Any) -> Any:
            x = self.block(self.embed(tokens) + self.positions).mean(dim=1)
            return self.head(nn.functional.relu(self.hidden(self.dropout(x))))

    return supervised(torch, Classifier(), tokens, labels, nn.functional.cross_entropy)


def _transformers(torch: Any) -> Any:
    import_timm(torch)  # transformers imports torchvision, and needs what this does for it
    try:
        import transformers
    except ImportError:
        raise ValueError('transformers is not installed; pip install "flaxzoo[bench]"') from None
    return transformers


def _gpt2(torch: Any, work: Work) -> Steps:
    """GPT-2 of Hugging Face, with random weights."""
    transformers = _transformers(torch)
    tokens = _tokens(torch, work, "tokens")
    targets = tokens[:, 1:].flatten()

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config())

        def forward(self, tokens: Any) -> Any:
            return self.gpt(tokens, use_cache=False).logits.flatten(0, 1)

    return supervised(torch, Logits(), tokens[:, :-1], targets, torch.nn.functional.cross_entropy)


def _bert(torch: Any, work: Work) -> Steps:
    """BERT of Hugging Face, with random weights; the output is the pooled first token."""
    transformers = _transformers(torch)
    tokens, labels = _tokens(torch, work, "image"), torch.from_numpy(work.batch["label"].astype(np.int64))

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = transformers.BertModel(transformers.BertConfig())

        def forward(self, tokens: Any) -> Any:
            return self.bert(tokens).pooler_output

    return supervised(torch, Pooled(), tokens, labels, torch.nn.functional.cross_entropy)


NETWORKS = {"char_gpt": _char_gpt, "transformer_classifier": _classifier, "gpt2": _gpt2, "bert_base": _bert}
"""By the names of the models."""
