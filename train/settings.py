"""How values are written in settings, on the command line and in spaces of a search."""

from __future__ import annotations

import ast
from typing import Any


def literal(text: str) -> Any:
    """A Python literal (number, True, None, list, "string"); anything else is a string as it stands.

    In a list, names need no quotes: `[id, name]`.
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if text[:1] == "[" and text[-1:] == "]" and not set("[](){}'\"") & set(text[1:-1]):
            return [literal(word.strip()) for word in text[1:-1].split(",") if word.strip()]
        return text


def parts_of(text: str) -> list[str]:
    """The parts of a value between the commas that no bracket or quotation mark encloses, `[64],[64, 64]` has two."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
