"""Networks whose depth is time: neural ordinary differential equations (guide, section 13.3)."""

from zoo.dynamics import ode_net

__all__ = ["ode_net"]
