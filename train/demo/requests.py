"""What a body of JSON must hold: each field is asked for by its type and its limits."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

Body = Mapping[str, Any]


def parse(raw: bytes) -> Body:
    """The object in a body.

    Raises:
      ValueError: it is no JSON by the standard, or something else than an object.
    """
    try:
        body = json.loads(raw.decode(), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None
    except ValueError as error:  # of UTF-8, of JSON, and of numbers with thousands of digits
        raise ValueError(f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise ValueError(f"the body must be a JSON object, not {type(body).__name__}")
    return body


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def require_fields(body: Body, *names: str) -> None:
    """Refuses a body that has not just these fields.

    Raises:
      ValueError: says which are missing or unknown.
    """
    if missing := [name for name in names if name not in body]:
        raise ValueError(f"the body lacks {', '.join(missing)}")
    if unknown := [name for name in body if name not in names]:
        raise ValueError(f"the body has the unknown field {unknown[0][:40]!r}; expected {', '.join(names)}")


def number(value: Any, name: str, low: float, high: float) -> float:
    """A finite number from `low` to `high`.

    Raises:
      ValueError: it is something else.
    """
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not (good and low <= value <= high and math.isfinite(value)):
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, not {_shown(value)}")
    return float(value)


def whole(value: Any, name: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`.

    Raises:
      ValueError: it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {_shown(value)}")
    return value


def text(value: Any, name: str, longest: int) -> str:
    """A text of at most `longest` characters.

    Raises:
      ValueError: it is something else, or longer.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {_shown(value)}")
    if len(value) > longest:
        raise ValueError(f"{name} has at most {longest} characters, not {len(value)}")
    return value


def raw(value: Any, name: str, size: int) -> bytes:
    """So many bytes, written as Base64.

    Raises:
      ValueError: it is something else, or of another size.
    """
    try:
        found = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        found = None
    if found is None:
        raise ValueError(f"{name} must be Base64 of {size} bytes, not {_shown(value)}")
    if len(found) != size:
        raise ValueError(f"{name} must be Base64 of {size} bytes, not of {len(found)}")
    return found


def items(value: Any, name: str, most: int) -> list[Any]:
    """A list of 1 to `most` entries.

    Raises:
      ValueError: it is something else, or longer.
    """
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        raise ValueError(f"{name} must be a list of 1 to {most} entries, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{type(value).__name__} of {len(value)}"
    shown = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "a huge one"
    return shown if len(shown) <= 40 else f"{shown[:37]}…"
