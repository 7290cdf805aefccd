"""Optimizers by name on Optax, with the guide's equations (section 3) where it gives them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import optax

from train.optim.freezing import matches, path_of
from zoo.options import check_options, unknown

Rate = float | optax.Schedule


def _momentum(learning_rate: Rate, beta: float = 0.9) -> optax.GradientTransformation:
    """Eq. 19–20: v := βv + (1 − β)g, W := W − αv. PyTorch's and Keras's momentum leave (1 − β) out: `sgd` does too."""
    return optax.chain(optax.ema(beta, debias=False), optax.scale_by_learning_rate(learning_rate))


def _rmsprop(learning_rate: Rate, decay: float = 0.9, eps: float = 1e-8, momentum: float | None = None):
    """Eq. 21–22, with ε under the root."""
    return optax.rmsprop(learning_rate, decay=decay, eps=eps, eps_in_sqrt=True, momentum=momentum)


_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adadelta": optax.adadelta,
    "adafactor": optax.adafactor,
    "adagrad": optax.adagrad,
    "adam": optax.adam,  # eq. 23-26
    "adamax": optax.adamax,
    "adamw": optax.adamw,
    "lamb": optax.lamb,
    "lars": optax.lars,
    "lion": optax.lion,
    "momentum": _momentum,
    "nadam": optax.nadam,
    "radam": optax.radam,
    "rmsprop": _rmsprop,
    "sgd": optax.sgd,  # eq. 16-18, according to the batch size
}


def optimizer(
    name: str,
    learning_rate: Rate,
    /,
    *,
    l2: float = 0.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    accumulate_steps: int = 1,
    layer_rates: Mapping[str, Rate] | None = None,
    **options: Any,
) -> optax.GradientTransformation:
    """An optimizer by name.

    In this order: gradients are averaged over `accumulate_steps` steps (parameters move at the last of them), the L2
    penalty is added, gradients are clipped, the optimizer proper follows.

    Args:
      name: adadelta, adafactor, adagrad, adam, adamax, adamw, lamb, lars, lion, momentum, nadam, radam, rmsprop or sgd.
      learning_rate: a number or a schedule, which counts steps also where several make one update.
      l2: λ of eq. 27, for matrices and kernels (not biases, nor scales of norms). For decoupled decay take `adamw`
        with `weight_decay`.
      clip_norm: largest global norm of the gradient (eq. 74).
      clip_value: largest absolute value of one component.
      accumulate_steps: number of batches that make one update.
      layer_rates: rates of the parameters that a wildcard such as "stage4_*" means, in place of `learning_rate`. The
        first that does decides.
      **options: of the one optimizer, by Optax's names. A `mask` of "kernels" keeps its weight decay from biases and
        scales of norms.

    Raises:
      ValueError: the name or an option is unknown, or a number makes no sense.
    """
    if name not in _OPTIMIZERS:
        raise ValueError(unknown("optimizer", name, _OPTIMIZERS))
    what = f"optimizer {name!r}"
    shared = {"l2": l2, "clip_norm": clip_norm, "clip_value": clip_value, "accumulate_steps": accumulate_steps}
    check_options(optimizer, shared, what)
    check_options(_OPTIMIZERS[name], options, what, elsewhere={"learning_rate": "it is given beside the name"})
    for rate in (learning_rate, *(layer_rates or {}).values()):
        require_rate(rate)
    parts = []
    if l2:
        parts.append(optax.add_decayed_weights(l2, mask=_kernels))
    if clip_norm is not None:
        parts.append(optax.clip_by_global_norm(clip_norm))
    if clip_value is not None:
        parts.append(optax.clip(clip_value))
    if isinstance(mask := options.get("mask"), str):
        if mask not in _MASKS:
            raise ValueError(unknown("mask of weight decay", mask, _MASKS))
        options["mask"] = _MASKS[mask]

    def of_rate(rate: Rate) -> optax.GradientTransformation:
        return _OPTIMIZERS[name](_of_update(rate, accumulate_steps), **options)

    core = _of_layers(of_rate, learning_rate, layer_rates) if layer_rates else of_rate(learning_rate)
    tx = optax.chain(*parts, core) if parts else core
    if accumulate_steps > 1:
        return optax.MultiSteps(tx, accumulate_steps).gradient_transformation()
    return tx


def require_rate(rate: Any) -> None:
    """Refuses what is no learning rate; a schedule is taken as it is.

    Raises:
      ValueError: it is not a finite number of at least 0.
    """
    if callable(rate) or isinstance(rate, jax.Array):
        return
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not math.isfinite(rate) or rate < 0:
        raise ValueError(f"learning_rate must be a finite number of at least 0, not {rate!r}")


def _of_layers(
    of_rate: Callable[[Rate], optax.GradientTransformation], rate: Rate, layer_rates: Mapping[str, Rate]
) -> optax.GradientTransformation:
    def labels(params: Any) -> Any:
        def label(path: Any, _: Any) -> str:
            return next((pattern for pattern in layer_rates if matches(path_of(path), pattern)), "")

        return jax.tree_util.tree_map_with_path(label, params)

    transforms: dict[Hashable, optax.GradientTransformation] = {p: of_rate(r) for p, r in layer_rates.items()}
    return optax.multi_transform({**transforms, "": of_rate(rate)}, labels)


def _of_update(rate: Rate, steps: int) -> Rate:
    """The rate by number of the update, which is made in the last of its `steps` steps."""
    return (lambda update: rate((update + 1) * steps - 1)) if callable(rate) else rate


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


_MASKS = {"kernels": _kernels}
