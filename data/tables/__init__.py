"""Rows of numbers, and arrays of one's own."""

from data.tables import arrays, csv_file, densities, iris

__all__ = ["arrays", "csv_file", "densities", "iris"]
