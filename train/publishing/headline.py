"""The one figure by which a trained run is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Headline(NamedTuple):
    """A figure of a report.

    Attributes:
      metric: its name there, such as "test_accuracy".
      value: the number.
      words: the number as a sentence says it, such as "99.16 %".
    """

    metric: str
    value: float
    words: str

    @property
    def split(self) -> str:
        """The part of the data that it was measured on."""
        return self.metric.partition("_")[0]

    @property
    def name(self) -> str:
        """The metric without the split."""
        return self.metric.partition("_")[2]


_METRICS = {
    "diffusion": ("classifier_confidence", "classifier's confidence of {:.3f}, in real images {real:.3f}"),
    "gan": ("classifier_confidence", "classifier's confidence of {:.3f}, in real images {real:.3f}"),
    "density": ("loss", "negative log-likelihood of {:.3f} nats"),
    "language_modeling": ("bits_per_character", "{:.2f} bits a character"),
    "link_prediction": ("auc", "area under the ROC curve {:.3f}"),
    "reconstruction": ("mse", "squared error of {:.4f}"),
    "seq2seq": ("exact_match", "{:.2%} translated without a mistake"),
    "vae": ("elbo", "ELBO of {:.2f} nats"),
}
"""The metric, and what to say of it, by task; of others it is the accuracy, else the loss."""


def headline(task: str, report: Mapping[str, Any]) -> Headline | None:
    """The figure of a report that matters most for this task, of the test split where there is one; or None."""
    choices = [_METRICS[task]] if task in _METRICS else []
    loss = "squared error of {:.3f}" if task == "regression" else "loss of {:.4f}"
    choices += [("accuracy", "{:.2%}"), ("loss", loss)]
    for split in ("test", "validation"):
        for name, words in choices:
            value = report.get(f"{split}_{name}")
            if isinstance(value, int | float):
                real = report.get(f"{split}_classifier_confidence_in_real", float("nan"))
                said = words.format(value, real=real).replace("%", " %").replace("-", "−")
                return Headline(f"{split}_{name}", float(value), said)
    return None
