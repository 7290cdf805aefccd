"""Plans: how pure functions meet devices. The same task runs under each, and they agree to rounding.

    plan = parallel.jit()        one program over all devices, data parallel
    plan = parallel.fsdp()       the same, parameters and optimizer state sharded too
    plan = parallel.pmap()       a replica for each device, gradients summed over the axis "batch"

Several processes work alike after `jax.distributed.initialize`: a plan spans the devices of all of them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from zoo.layers import BATCH_AXIS, lowering
from zoo.registry import unknown

Devices = Sequence[Any]
"""Some of `jax.devices()`."""

Program = Callable[[Any, Any, Any], tuple[Any, Any]]
"""(state, items, shared) → (state, metrics). `items` are split over devices, `shared` is whole on each."""


class Plan(NamedTuple):
    """How programs, states and batches are laid out over devices.

    Attributes:
      name: "jit", "fsdp" or "pmap".
      num_devices: devices of all processes; a batch must be divisible by it.
      processes: those whose devices they are, in the order of their rows of a batch; one where a process works alone.
      place: a state (as `Task.init` gives it) → the same on the devices.
      unplace: the inverse; what a checkpoint holds, whatever the plan.
      replicate: host arrays → the same whole on each device.
      split: (host arrays with this process's rows, axis of the batch) → one batch split over the devices.
      compile: (program, donate=True) → the program compiled, the state's buffers reused where `donate`.
    """

    name: str
    num_devices: int
    processes: tuple[int, ...]
    place: Callable[[Any], Any]
    unplace: Callable[[Any], Any]
    replicate: Callable[[Any], Any]
    split: Callable[[Any, int], Any]
    compile: Callable[..., Program]

    def rows(self, batch_size: int) -> slice:
        """The rows of a global batch that this process feeds.

        Raises:
          ValueError: the batch cannot be split evenly over the devices.
        """
        if batch_size % self.num_devices:
            near = max(1, batch_size // self.num_devices) * self.num_devices
            raise ValueError(
                f"a batch of {batch_size} cannot be split evenly over {self.num_devices} devices; take {near}"
            )
        each, place = batch_size // len(self.processes), self.processes.index(jax.process_index())
        return slice(place * each, (place + 1) * each)


def jit(devices: Devices | None = None) -> Plan:
    """Data parallelism as one program: the batch is sharded, the state is whole on each device."""
    return _sharded("jit", devices, lambda shape, count: PartitionSpec())


def fsdp(devices: Devices | None = None, *, least_size: int = 2**12) -> Plan:
    """Fully sharded data parallelism (Rajbhandari et al. 2020, ZeRO stage 3).

    Each array of the state that has at least `least_size` elements is split along its longest divisible axis.
    """

    def spec(shape: tuple[int, ...], count: int) -> PartitionSpec:
        axes = [axis for axis, size in enumerate(shape) if size % count == 0 and size > 0]
        if count == 1 or np.prod(shape, dtype=np.int64) < least_size or not axes:
            return PartitionSpec()
        longest = max(axes, key=lambda axis: shape[axis])
        return PartitionSpec(*(BATCH_AXIS if axis == longest else None for axis in range(longest + 1)))

    return _sharded("fsdp", devices, spec)


def _sharded(name: str, devices: Devices | None, spec: Callable[[tuple[int, ...], int], PartitionSpec]) -> Plan:
    devices = list(devices or jax.devices())
    mesh = jax.make_mesh((len(devices),), (BATCH_AXIS,), axis_types=(AxisType.Auto,), devices=devices)

    def shardings(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: NamedSharding(mesh, spec(leaf.shape, len(devices))), tree)

    def place(state: Any) -> Any:
        return jax.tree.map(_put, state, shardings(state))

    def replicate(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(mesh, PartitionSpec())), tree)

    def split(tree: Any, axis: int) -> Any:
        if len(devices) == 1:
            return tree  # the call of the program puts it there, in a tenth of the time
        sharding = NamedSharding(mesh, PartitionSpec(*(None,) * axis, BATCH_AXIS))
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), tree)

    def compile(program: Program, *, donate: bool = True) -> Program:
        def laid_out(state: Any, items: Any, shared: Any) -> tuple[Any, Any]:
            # Left to itself the compiler may lay the new state out otherwise than the old, and compile again for it.
            state, metrics = program(state, items, shared)
            whole = jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec()), metrics)
            constrain = jax.lax.with_sharding_constraint
            return constrain(state, shardings(state)), constrain(metrics, whole)

        return jax.jit(laid_out, donate_argnums=(0,) if donate else (), compiler_options=compiler_options())

    return Plan(name, len(devices), _processes(devices), place, lambda state: state, replicate, split, compile)


def pmap(devices: Devices | None = None) -> Plan:
    """A replica of the state for each device, which sees its part of the batch."""
    devices = list(devices or jax.devices())
    local = [device for device in devices if device.process_index == jax.process_index()]
    mesh = Mesh(np.array(local), (BATCH_AXIS,))
    each_device = NamedSharding(mesh, PartitionSpec(BATCH_AXIS))

    def replicate(tree: Any) -> Any:
        def copy(leaf: Any) -> jax.Array:
            return _put(np.broadcast_to(leaf, (len(local), *np.shape(leaf))), each_device)

        return jax.tree.map(lambda leaf: _as_data(copy, leaf), tree)

    def unplace(state: Any) -> Any:
        def first(leaf: Any) -> np.ndarray:
            return np.asarray(leaf.addressable_shards[0].data)[0, ...]  # of a scalar too an array, which Orbax wants

        return jax.tree.map(lambda leaf: _as_data(first, leaf), state)

    def split(tree: Any, axis: int) -> Any:
        def cut(leaf: np.ndarray) -> jax.Array:
            parts = leaf.reshape(*leaf.shape[:axis], len(local), -1, *leaf.shape[axis + 1 :])
            return jax.device_put(np.moveaxis(parts, axis, 0), each_device)

        return jax.tree.map(cut, tree)

    def compile(program: Program, *, donate: bool = True) -> Program:
        return jax.pmap(
            program,
            axis_name=BATCH_AXIS,
            devices=devices,
            out_axes=(0, None),  # type: ignore[arg-type]  # metrics are summed: one copy is enough
            donate_argnums=(0,) if donate else (),
        )

    return Plan("pmap", len(devices), _processes(devices), replicate, unplace, replicate, split, compile)


def _processes(devices: Devices) -> tuple[int, ...]:
    return tuple(dict.fromkeys(device.process_index for device in devices))


@functools.cache
def compiler_options() -> dict[str, str] | None:
    """On a CPU, keeps the library YNNPACK to matrix products and sums: what XLA itself makes of convolutions is faster.

    And has vectors as wide as the CPU's, where LLVM prefers half of AVX-512: the loops of an LSTM's train step take 5 %
    less so, other steps what they took. None where the compiler does not know these options, or
    `ZOO_CPU_LOWERING=plain` turns them off.
    """
    if jax.default_backend() != "cpu" or not lowering.ENABLED:
        return None
    kinds = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    options = {"xla_cpu_experimental_ynn_fusion_type": kinds, "xla_cpu_prefer_vector_width": "512"}
    try:
        jax.jit(jnp.negative, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # "No such compile option"
        return None
    return options


def devices_for(batch_size: int) -> list[Any]:
    """As many devices as divide a batch evenly; all of them where there are several processes."""
    devices = jax.devices()
    if jax.process_count() > 1:
        return devices
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if count < len(devices):
        logging.getLogger(__name__).warning(
            "a batch of %d is split evenly over %d of the %d devices; the others are idle",
            batch_size,
            count,
            len(devices),
        )
    return devices[:count]


PLANS: dict[str, Callable[..., Plan]] = {"jit": jit, "fsdp": fsdp, "pmap": pmap}


def plan(name: str, devices: Devices | None = None) -> Plan:
    """A plan by name: jit, fsdp or pmap; over all devices where none are given.

    Raises:
      ValueError: there is none of this name.
    """
    if name not in PLANS:
        raise ValueError(unknown("plan", name, PLANS))
    return PLANS[name](devices)


def to_host(tree: Any) -> Any:
    """A copy of what `Plan.unplace` gives in the memory of the host, which a program that donates leaves alone."""
    return jax.tree.map(lambda leaf: _as_data(np.array, leaf), tree)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)

    def across_processes(data: Any) -> jax.Array:
        host = np.asarray(data)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return _as_data(across_processes, leaf)


def _as_data(change: Callable[[Any], Any], leaf: Any) -> Any:
    """Applies `change` to an array, and to the words of a random key, which is an array of them in disguise."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(change(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return change(leaf)
