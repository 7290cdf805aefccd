"""The recipes that come with the zoo, one file a domain; importing this package enters them."""

from train.recipes import comparisons, dynamics, folders, generative, images, sequences, tables, text, translation

__all__ = ["comparisons", "dynamics", "folders", "generative", "images", "sequences", "tables", "text", "translation"]
