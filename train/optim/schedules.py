"""Learning-rate schedules by name: functions of the step, from Optax."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import optax

from train.optim.optimizers import require_rate
from zoo.options import check_options, unknown


def _constant(rate: float, steps: int) -> optax.Schedule:
    return optax.constant_schedule(rate)


def _exponential(rate: float, steps: int, *, decay_factor: float = 0.96, decay_steps: int | None = None):
    """Guide, eq. 73: α₀ · decay_factor^(t / decay_steps); the decay steps default to a hundredth of all."""
    return optax.exponential_decay(rate, decay_steps or max(1, steps // 100), decay_factor)


def _cosine(rate: float, steps: int, *, final_fraction: float = 0.0) -> optax.Schedule:
    """Loshchilov & Hutter 2017, eq. 5, without restarts."""
    return optax.cosine_decay_schedule(rate, steps, alpha=final_fraction)


def _linear(rate: float, steps: int, *, final_fraction: float = 0.0) -> optax.Schedule:
    return optax.linear_schedule(rate, rate * final_fraction, steps)


def _polynomial(rate: float, steps: int, *, power: float = 2.0, final_fraction: float = 0.0) -> optax.Schedule:
    return optax.polynomial_schedule(rate, rate * final_fraction, power, steps)


def _step(rate: float, steps: int, *, decay_factor: float = 0.1, milestones: tuple[float, ...] = (0.5, 0.75)):
    """Multiplies the rate by `decay_factor` at each milestone, given as a fraction of all steps."""
    if any(not 0 < m < 1 for m in milestones) or list(milestones) != sorted(set(milestones)):
        raise ValueError(f"milestones are rising fractions of the training, in (0, 1), not {list(milestones)}")
    falls = Counter(round(m * steps) for m in milestones)  # of a very short training several may be one step
    return optax.piecewise_constant_schedule(rate, {step: decay_factor**count for step, count in falls.items()})


def _one_cycle(rate: float, steps: int, *, peak_at: float = 0.3) -> optax.Schedule:
    """Smith & Topin 2018: up to `rate` at the fraction `peak_at`, then down to almost nothing, both as cosines."""
    return optax.cosine_onecycle_schedule(steps, rate, pct_start=peak_at)


def _inverse_sqrt(rate: float, steps: int, *, warmup_steps: int = 0) -> optax.Schedule:
    """Vaswani et al. 2017, eq. 3: falls with the root of the step, counted from the first of the warm-up."""
    return lambda step: rate * (max(warmup_steps, 1) / (step + warmup_steps + 1.0)) ** 0.5


_SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "exponential": _exponential,
    "inverse_sqrt": _inverse_sqrt,
    "linear": _linear,
    "one_cycle": _one_cycle,
    "polynomial": _polynomial,
    "step": _step,
}


def schedule(
    name: str, learning_rate: float, total_steps: int, /, *, warmup_steps: int = 0, **options: Any
) -> optax.Schedule:
    """A schedule by name: constant, cosine, exponential, inverse_sqrt, linear, one_cycle, polynomial or step.

    Args:
      name: one of the above.
      learning_rate: the highest rate.
      total_steps: length of training, warm-up included; decaying schedules end there.
      warmup_steps: steps over which the rate first rises linearly, from `learning_rate / warmup_steps`.
      **options: of the one schedule, such as `final_fraction` of cosine.

    Returns:
      step → learning rate.

    Raises:
      ValueError: the name or an option is unknown, or a length makes no sense.
    """
    if name not in _SCHEDULES:
        raise ValueError(unknown("schedule", name, _SCHEDULES))
    require_rate(learning_rate)
    elsewhere: dict[str, str] = dict.fromkeys(("rate", "steps", "warmup_steps"), "it is given beside the name")
    check_options(schedule, {"warmup_steps": warmup_steps}, f"schedule {name!r}")
    check_options(_SCHEDULES[name], options, f"schedule {name!r}", elsewhere=elsewhere)
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps must be at least 0 and less than the {total_steps} steps, not {warmup_steps}; train longer "
            f"(epochs=…), or warm up for less: schedule_options.warmup_steps={total_steps // 10}"
        )
    if name == "inverse_sqrt":
        options["warmup_steps"] = warmup_steps
    after = _SCHEDULES[name](learning_rate, total_steps - warmup_steps, **options)
    if not warmup_steps:
        return after
    rise = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps - 1 or 1)
    return optax.join_schedules([rise, after], [warmup_steps])
