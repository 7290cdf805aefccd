"""Networks that read and write text."""

from zoo.text import bert, char_lm, gpt, llama, transformer

__all__ = ["bert", "char_lm", "gpt", "llama", "transformer"]
