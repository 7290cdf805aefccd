"""Networks on images, features and sequences of numbers in PyTorch, and their steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from train.measure.peers.work import Work, refuse


class Steps(NamedTuple):
    """A network, and one inference and one train step on a batch, which gives the loss.

    `apart` are networks that `torch.compile` takes one by one in training, where a step in one goes back twice through
    what it shares.
    """

    network: Any
    infer: Callable[[], Any]
    train: Callable[[], Any]
    apart: Sequence[Any] = ()


def make(torch: Any, work: Work) -> Steps:
    """The network that `work` names.

    Raises:
      ValueError: there is none in PyTorch, or it has no such options.
    """
    if work.name in _STACKS:
        return _recurrent(torch, work)
    if "image" not in work.batch or work.batch["image"].dtype != np.float32:
        raise ValueError(f"there is no {work.name!r} in PyTorch to compare with")
    channels_last = torch.channels_last
    images = torch.from_numpy(work.batch["image"])
    if images.ndim == 4:
        images = images.permute(0, 3, 1, 2).contiguous(memory_format=channels_last)
    options = {option: value for option, value in work.options.items() if option != "num_classes"}
    if work.name in ("gan", "vae", "mlp", "cnn"):
        refuse(options, work.name, "PyTorch")
    if work.name == "gan":
        return _gan(torch, images)
    if work.name == "vae":
        return _vae(torch, images)
    network = _classifier(torch, work.name, options, work.outputs).to(memory_format=channels_last)
    labels = torch.from_numpy(work.batch["label"].astype(np.int64))
    return supervised(torch, network, images, labels, torch.nn.functional.cross_entropy)


def supervised(torch: Any, network: Any, inputs: Any, targets: Any, loss: Callable[[Any, Any], Any]) -> Steps:
    """The steps of a network with one loss."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def infer() -> Any:
        return network(inputs)

    def train() -> Any:
        optimizer.zero_grad(set_to_none=True)
        value = loss(network(inputs), targets)
        value.backward()
        optimizer.step()
        return value.detach()

    return Steps(network, infer, train)


_TIMM_NAMES = {"mobilenet_v3_large": "mobilenetv3_large_100", "densenet121": "densenet121"}


def _classifier(torch: Any, name: str, options: dict[str, Any], outputs: int) -> Any:
    nn = torch.nn
    if name == "mlp":
        return nn.Sequential(
            *(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.3)),
            *(nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, outputs)),
        )
    if name == "cnn":

        def block(inputs: int, features: int) -> list[Any]:
            return [nn.Conv2d(inputs, features, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(features), nn.MaxPool2d(2)]

        dense = [nn.Flatten(), nn.Linear(1152, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, outputs)]
        return nn.Sequential(*block(1, 32), *block(32, 64), *block(64, 128), *dense)
    timm = import_timm(torch)
    if name == "alexnet":
        import torchvision

        return torchvision.models.alexnet(num_classes=outputs)
    known = _TIMM_NAMES.get(name, name)
    if known not in timm.list_models():
        raise ValueError(f"there is no {name!r} in PyTorch to compare with")
    network = timm.create_model(known, num_classes=outputs)
    if options.pop("stem", "imagenet") == "cifar":
        network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    refuse(options, name, "PyTorch")
    return network


def import_timm(torch: Any) -> Any:
    """timm, beside a PyTorch without CUDA too.

    The torchvision of PyPI is built for CUDA; without its library, the import stops where it describes operators that
    were never declared. Nothing here calls them: their schemas are all that is needed.

    Raises:
      ValueError: timm is not installed.
    """
    try:
        import timm
    except RuntimeError:  # "operator torchvision::nms does not exist"
        for operator in ("nms(Tensor dets, Tensor scores, float iou)", "qnms(Tensor dets, Tensor scores, float iou)"):
            torch.library.define(f"torchvision::{operator.split('(')[0]}", f"({operator.split('(')[1]} -> Tensor")
        import timm
    except ImportError:
        raise ValueError('timm is not installed; pip install "flaxzoo[bench]"') from None
    return timm


def _vae(torch: Any, images: Any) -> Steps:
    nn = torch.nn
    encoder = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(3136, 16), nn.ReLU(), nn.Linear(16, 64)),
    )
    decoder = nn.Sequential(
        *(nn.Linear(32, 3136), nn.ReLU(), nn.Unflatten(1, (64, 7, 7))),
        *(nn.ConvTranspose2d(64, 64, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(64, 32, 3, 2, 1, 1), nn.ReLU()),
        nn.ConvTranspose2d(32, 1, 3, 1, 1),
    )
    both = nn.ModuleList([encoder, decoder]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(both.parameters(), lr=1e-3)

    def infer() -> Any:
        return decoder(encoder(images).chunk(2, dim=1)[0])

    def train() -> Any:
        optimizer.zero_grad(set_to_none=True)
        mean, log_var = encoder(images).chunk(2, dim=1)
        logits = decoder(mean + torch.exp(log_var / 2) * torch.randn_like(mean))
        nll = nn.functional.binary_cross_entropy_with_logits(logits, images, reduction="sum")
        kl = (mean**2 + log_var.exp() - 1 - log_var).sum() / 2
        loss = (nll + kl) / len(images)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Steps(both, infer, train)


def _gan(torch: Any, images: Any) -> Steps:
    nn = torch.nn
    generator = nn.Sequential(
        *(nn.Linear(100, 6272, bias=False), nn.Unflatten(1, (128, 7, 7)), nn.BatchNorm2d(128), nn.LeakyReLU(0.2)),
        *(nn.ConvTranspose2d(128, 128, 4, 2, 1, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.2)),
        *(nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(64, 1, 3, padding=1), nn.Tanh()),
    )
    discriminator = nn.Sequential(
        *(nn.Conv2d(1, 64, 3, 2, 1), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
        *(nn.Conv2d(64, 128, 3, 2, 1), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
        *(nn.Flatten(), nn.Linear(6272, 1)),
    )
    both = nn.ModuleList([generator, discriminator]).to(memory_format=torch.channels_last)
    g_optimizer = torch.optim.AdamW(generator.parameters(), lr=1e-3)
    d_optimizer = torch.optim.AdamW(discriminator.parameters(), lr=1e-3)
    loss = nn.functional.binary_cross_entropy_with_logits
    size = len(images)

    def infer() -> Any:
        return discriminator(generator(torch.randn(size, 100)))

    def train() -> Any:
        generated = generator(torch.randn(size, 100))
        logits = discriminator(torch.cat([2 * images - 1, generated.detach()]))
        labels = torch.cat([torch.ones(size, 1), torch.zeros(size, 1)]) - 0.05 * torch.rand(2 * size, 1)
        d_optimizer.zero_grad(set_to_none=True)
        d_loss = loss(logits, labels)
        d_loss.backward()
        d_optimizer.step()
        g_optimizer.zero_grad(set_to_none=True)
        loss(discriminator(generated), torch.ones(size, 1)).backward()
        g_optimizer.step()
        return d_loss.detach()

    return Steps(both, infer, train, apart=(generator, discriminator))


_STACKS = {
    "char_lstm": ("LSTM", 65, (128, 128), 0.2, False, 65),
    "lstm_regressor": ("LSTM", 1, (64, 32), 0.2, False, 1),
    "gru_regressor": ("GRU", 1, (64, 32), 0.2, False, 1),
    "bilstm_regressor": ("LSTM", 1, (64, 32), 0.0, True, 1),
}
"""Kind of layer, features, hidden sizes, dropout rate, both directions, outputs."""


def _recurrent(torch: Any, work: Work) -> Steps:
    refuse(work.options, work.name, "PyTorch")
    nn = torch.nn
    kind, features, sizes, rate, bidirectional, outputs = _STACKS[work.name]
    directions = 2 if bidirectional else 1
    reads_text = work.name == "char_lstm"
    if reads_text:
        tokens = torch.from_numpy(work.batch["tokens"].astype(np.int64))
        inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()
    else:
        inputs, targets = torch.from_numpy(work.batch["inputs"]), torch.from_numpy(work.batch["target"])

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (features, *(directions * size for size in sizes))
            self.layers = nn.ModuleList(
                getattr(nn, kind)(width, size, batch_first=True, bidirectional=bidirectional)
                for width, size in zip(widths, sizes, strict=False)
            )
            self.dropout = nn.Dropout(rate)
            self.head = nn.Linear(widths[-1], outputs)

        def forward(self, x: Any) -> Any:
            if reads_text:
                x = nn.functional.one_hot(x, features).float()
            last: Any = None
            for layer in self.layers:
                x, last = layer(x)
                x = self.dropout(x)
            if not reads_text:
                last = last[0] if kind == "LSTM" else last
                x = self.dropout(last.transpose(0, 1).flatten(1))
            return self.head(x).reshape(-1, outputs)

        def step(self, token: Any, state: Any) -> tuple[Any, Any]:
            """Logits of the next character `[batch, characters]`, and the state of each layer."""
            x, after = nn.functional.one_hot(token, features).float(), []
            for layer, before in zip(self.layers, state or [None] * len(self.layers), strict=True):
                x, last = layer(x, before)
                after.append(last)
            return self.head(x[:, -1]), after

    loss = nn.functional.cross_entropy if reads_text else nn.functional.mse_loss
    return supervised(torch, Network(), inputs, targets, loss)
