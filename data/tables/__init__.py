"""Rows of numbers, sequences of them, and arrays of one's own."""

from data.tables import arrays, columns, iris, synthetic

__all__ = ["arrays", "columns", "iris", "synthetic"]
