"""The recipes that come with the zoo, one file a domain; importing this package enters them."""

from train.recipes import comparisons, folders, generative, graphs, images, sequences, tables, text, translation

__all__ = ["comparisons", "folders", "generative", "graphs", "images", "sequences", "tables", "text", "translation"]
