"""Rows of numbers, and sequences of them."""

from data.tables import iris, synthetic

__all__ = ["iris", "synthetic"]
