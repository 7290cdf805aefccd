"""Sequences of numbers."""

from data.sequences import spirals, sums

__all__ = ["spirals", "sums"]
