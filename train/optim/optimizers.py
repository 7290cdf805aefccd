"""Optimizers by name on Optax, with the guide's equations (section 3) where it gives them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from train.optim.freezing import by_wildcard, path_of
from zoo.options import check_options, unknown

Rate = float | optax.Schedule

Decay = float | Mapping[str, float]
"""One strength, or one by wildcard such as `{"conv*": 1e-2, "head": 5e-4}`; parameters that none means have none."""


def _momentum(learning_rate: Rate, beta: float = 0.9) -> optax.GradientTransformation:
    """Eq. 19–20: v := βv + (1 − β)g, W := W − αv. PyTorch's and Keras's is `heavy_ball`."""
    return optax.chain(optax.ema(beta, debias=False), optax.scale_by_learning_rate(learning_rate))


def _heavy_ball(learning_rate: Rate, momentum: float = 0.9) -> optax.GradientTransformation:
    """Polyak 1964: v := βv + g, W := W − αv. That of eq. 19–20 at a rate of α / (1 − β)."""
    return optax.sgd(learning_rate, momentum)


def _nesterov(learning_rate: Rate, momentum: float = 0.9) -> optax.GradientTransformation:
    """Nesterov 1983, as Sutskever et al. 2013 write it: v := βv + g, W := W − α (g + βv)."""
    return optax.sgd(learning_rate, momentum, nesterov=True)


def _rmsprop(
    learning_rate: Rate,
    decay: float = 0.9,
    eps: float = 1e-8,
    momentum: float | None = None,
    eps_in_sqrt: bool = True,
) -> optax.GradientTransformation:
    """Eq. 21–22, with ε under the root as there and in Keras; or outside of it, as in PyTorch."""
    return optax.rmsprop(learning_rate, decay=decay, eps=eps, eps_in_sqrt=eps_in_sqrt, momentum=momentum)


def _muon(
    learning_rate: Rate,
    beta: float = 0.95,
    ns_steps: int = 5,
    nesterov: bool = True,
    adam_factor: float = 1.0,
    weight_decay: float = 0.0,
    mask: Any = None,
) -> optax.GradientTransformation:
    """Jordan 2024: a matrix moves along its momentum with all singular values made about 1, by Newton and Schulz.

    What is no matrix (biases, norms, kernels of convolutions) goes by Adam, at `adam_factor` times the rate.
    """
    matrices = optax.contrib.muon(1.0, beta=beta, ns_steps=ns_steps, nesterov=nesterov)
    direction = optax.multi_transform(
        {"matrix": matrices, "other": optax.adam(adam_factor)},
        lambda params: jax.tree.map(lambda leaf: "matrix" if leaf.ndim == 2 else "other", params),
    )
    decay = optax.add_decayed_weights(-weight_decay, mask)
    return optax.chain(direction, decay, optax.scale_by_learning_rate(learning_rate, flip_sign=False))


def _schedule_free(
    base: optax.GradientTransformation, learning_rate: Rate, b1: float, weight_lr_power: float
) -> optax.GradientTransformation:
    """Defazio et al. 2024, eq. 1-3; see `train.optim.weight_average` for what is evaluated."""
    if not 0 < b1 <= 1:
        raise ValueError(f"b1 of a schedule-free optimizer must be in (0, 1], not {b1}")
    # Optax counts the steps of the average from 1, and those of the base optimizer from 0.
    rate = (lambda count: learning_rate(count - 1)) if callable(learning_rate) else learning_rate
    return optax.contrib.schedule_free(base, rate, b1=b1, weight_lr_power=weight_lr_power)


def _schedule_free_adamw(
    learning_rate: Rate,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    mask: Any = None,
    weight_lr_power: float = 2.0,
) -> optax.GradientTransformation:
    """AdamW without momentum inside; the average takes its place."""
    scale = optax.scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False, bias_correction=True)
    base = [scale, optax.add_decayed_weights(weight_decay, mask), optax.scale_by_learning_rate(learning_rate)]
    return _schedule_free(optax.chain(*base), learning_rate, b1, weight_lr_power)


def _schedule_free_sgd(
    learning_rate: Rate, b1: float = 0.9, weight_lr_power: float = 2.0
) -> optax.GradientTransformation:
    return _schedule_free(optax.sgd(learning_rate), learning_rate, b1, weight_lr_power)


_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adadelta": optax.adadelta,
    "adafactor": optax.adafactor,
    "adagrad": optax.adagrad,
    "adam": optax.adam,  # eq. 23-26
    "adamax": optax.adamax,
    "adamw": optax.adamw,
    "heavy_ball": _heavy_ball,
    "lamb": optax.lamb,
    "lars": optax.lars,
    "lion": optax.lion,
    "momentum": _momentum,
    "muon": _muon,
    "nadam": optax.nadam,
    "nesterov": _nesterov,
    "radam": optax.radam,
    "rmsprop": _rmsprop,
    "schedule_free_adamw": _schedule_free_adamw,
    "schedule_free_sgd": _schedule_free_sgd,
    "sgd": optax.sgd,  # eq. 16-18, according to the batch size
}


def optimizer(
    name: str,
    learning_rate: Rate,
    /,
    *,
    l2: Decay = 0.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    max_norm: float | None = None,
    accumulate_steps: int = 1,
    layer_rates: Mapping[str, Rate] | None = None,
    **options: Any,
) -> optax.GradientTransformation:
    """An optimizer by name.

    In this order: gradients are averaged over `accumulate_steps` steps (parameters move at the last of them), the L2
    penalty is added, gradients are clipped, the optimizer proper follows, and norms of weights are constrained.

    Args:
      name: adadelta, adafactor, adagrad, adam, adamax, adamw, heavy_ball, lamb, lars, lion, momentum, muon, nadam,
        nesterov, radam, rmsprop, schedule_free_adamw, schedule_free_sgd or sgd.
      learning_rate: a number or a schedule, which counts steps also where several make one update.
      l2: λ of eq. 27, for matrices and kernels (not biases, nor scales of norms); or by wildcard, for what it means.
        For decoupled decay take `adamw` with `weight_decay`.
      clip_norm: largest global norm of the gradient (eq. 74).
      clip_value: largest absolute value of one component.
      max_norm: largest norm of the weights that come into one unit (Srivastava et al. 2014, section 5.1): of each
        kernel, over all axes but the last.
      accumulate_steps: number of batches that make one update.
      layer_rates: rates of the parameters that a wildcard such as "stage4_*" means, in place of `learning_rate`. The
        first that does decides.
      **options: of the one optimizer, by Optax's names. `weight_decay`, where it has one, is of all parameters, or by
        wildcard. A `mask` of "kernels" keeps it from biases and scales of norms.

    Raises:
      ValueError: the name or an option is unknown, or a number makes no sense.
      WildcardError: at its `init`; a wildcard means no parameter.
    """
    if name not in _OPTIMIZERS:
        raise ValueError(unknown("optimizer", name, _OPTIMIZERS))
    what, build = f"optimizer {name!r}", _OPTIMIZERS[name]
    shared = {"l2": l2, "clip_norm": clip_norm, "clip_value": clip_value, "max_norm": max_norm}
    check_options(optimizer, {**shared, "accumulate_steps": accumulate_steps}, what)
    elsewhere = {"learning_rate": "it is given beside the name"}
    if "weight_decay" not in inspect.signature(build).parameters:
        elsewhere["weight_decay"] = "take l2, the penalty of eq. 27; or adamw, whose decay is apart from the gradient"
    decays = options.pop("weight_decay") if isinstance(options.get("weight_decay"), Mapping) else {}
    check_options(build, options, what, elsewhere=elsewhere)
    for decay in decays.values():
        check_options(build, {"weight_decay": decay}, what, elsewhere=elsewhere)
    for decay in l2.values() if isinstance(l2, Mapping) else ():
        check_options(optimizer, {"l2": decay}, what)
    if name.startswith("schedule_free") and max_norm is not None:
        raise ValueError(f"{what} averages the parameters: max_norm would constrain others than are evaluated")
    for rate in (learning_rate, *(layer_rates or {}).values()):
        require_rate(rate)
    if isinstance(mask := options.get("mask"), str):
        if mask not in _MASKS:
            raise ValueError(unknown("mask of weight decay", mask, _MASKS))
        options["mask"] = _MASKS[mask]

    parts = []
    if isinstance(l2, Mapping):
        parts.append(_by_group({(p,): optax.add_decayed_weights(v) for p, v in {**l2, "": 0.0}.items()}, "l2"))
    elif l2:
        parts.append(optax.add_decayed_weights(l2, mask=_kernels))
    if clip_norm is not None:
        parts.append(optax.clip_by_global_norm(clip_norm))
    if clip_value is not None:
        parts.append(optax.clip(clip_value))
    rates = {**(layer_rates or {}), "": learning_rate}
    groups = {
        (at, by): build(_of_update(rate, accumulate_steps), **options, **({"weight_decay": decay} if decays else {}))
        for at, rate in rates.items()
        for by, decay in {**decays, "": 0.0}.items()
    }
    parts.append(_by_group(groups, "layer_rates", "weight_decay") if len(groups) > 1 else groups["", ""])
    if max_norm is not None:
        parts.append(_constrain(max_norm))
    tx = optax.chain(*parts) if len(parts) > 1 else parts[0]
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
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= sys.float_info.max:
        raise ValueError(f"learning_rate must be a finite number of at least 0, not {rate!r}")


def _by_group(transforms: Mapping[tuple[str, ...], optax.GradientTransformation], *what: str) -> Any:
    """Each transformation for the parameters that its wildcards mean, one of each kind; "" means all others."""
    patterns = zip(*transforms, strict=True)
    kinds = [by_wildcard([p for p in dict.fromkeys(of) if p], kind) for of, kind in zip(patterns, what, strict=True)]

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda *found: " ".join(found), *(kind(params) for kind in kinds))

    return optax.multi_transform({" ".join(of): tx for of, tx in transforms.items()}, labels)


def _constrain(largest: float) -> optax.GradientTransformation:
    """Changes updates so that after them no column of a kernel is longer than `largest`; directions stay."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def project(path: Any, u: jax.Array, w: jax.Array) -> jax.Array:
            if w.ndim < 2 or not path_of(path).rpartition("/")[2].startswith("kernel"):
                return u
            moved = w + u
            norm = jnp.sqrt(jnp.square(moved).sum(tuple(range(w.ndim - 1)), keepdims=True))
            return moved * jnp.minimum(1, largest / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)) - w

        return jax.tree_util.tree_map_with_path(project, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _of_update(rate: Rate, steps: int) -> Rate:
    """The rate by number of the update, which is made in the last of its `steps` steps."""
    return (lambda update: rate((update + 1) * steps - 1)) if callable(rate) else rate


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


_MASKS = {"kernels": _kernels}
