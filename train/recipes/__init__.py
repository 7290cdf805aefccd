"""The recipes that come with the zoo, one file a domain; importing this package enters them."""

from train.recipes import images, tables

__all__ = ["images", "tables"]
