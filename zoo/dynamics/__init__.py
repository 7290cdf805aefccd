"""Networks whose depth is time: neural ordinary differential equations (guide, section 13.3)."""

from zoo.dynamics import ffjord, latent_ode, neural_ode, ode_net
from zoo.dynamics.solve import Method, Solution, SolverError, solve

__all__ = ["Method", "Solution", "SolverError", "ffjord", "latent_ode", "neural_ode", "ode_net", "solve"]
