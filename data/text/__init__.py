"""Texts as tokens."""

from data.text import characters, dates, tokens

__all__ = ["characters", "dates", "tokens"]
