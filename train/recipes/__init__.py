"""The recipes that come with the zoo, one file a domain; importing this package enters them."""

from train.recipes import generative, images, tables

__all__ = ["generative", "images", "tables"]
