"""Programs that tests run once or a few times: compiling them is what takes the time, and optimising them a third."""

import functools
import os

import jax

QUICKLY = {"xla_backend_optimization_level": 0} if os.environ.get("JAX_PLATFORMS") == "cpu" else {}
"""For `compiler_options` of `jax.jit`: on a CPU, without the optimisations of LLVM."""

compiled = functools.partial(jax.jit, compiler_options=QUICKLY)
