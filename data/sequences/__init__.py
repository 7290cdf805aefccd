"""Sequences of numbers."""

from data.sequences import sums

__all__ = ["sums"]
