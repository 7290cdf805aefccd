"""Texts as tokens."""

from data.text import characters, dates, texts, tokens

__all__ = ["characters", "dates", "texts", "tokens"]
