"""Sets of images."""

from data.images import digits, folder, mnist

__all__ = ["digits", "folder", "mnist"]
