"""The recipes that come with the zoo, one file a domain; importing this package enters them."""

from train.recipes import generative, images, sequences, tables, text, transfer, translation

__all__ = ["generative", "images", "sequences", "tables", "text", "transfer", "translation"]
