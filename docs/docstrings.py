"""How docstrings become pages: they are written for readers of the code, with `names` in single backticks.

A name in backticks becomes a link where this site describes it, and code where it does not. Markup of
reStructuredText that a docstring does not mean, such as the star of `*args`, is escaped, and an indented block is code.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

_NAME = re.compile(r"[A-Za-z_][\w.]*")
_SEVERAL = re.compile(r"\s+\**\w+(, \**\w+)+:")
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")


def setup(app: Sphinx) -> dict[str, bool]:
    """Enters the role and what is done to each docstring, before napoleon reads it."""
    app.add_role("name", _role)
    app.connect("missing-reference", _as_code)
    app.connect("autodoc-process-docstring", _to_rst, priority=100)
    app.connect("autodoc-process-signature", _shorter)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _role(name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = None):
    """`text` as code, which links to what it names if that is described."""
    text = nodes.unescape(text)
    code = nodes.literal(text, text)
    if not _NAME.fullmatch(text):
        return [code], []
    env = inliner.document.settings.env
    reference = pending_xref("", code, refdomain="py", reftype="obj", reftarget=text, refdoc=env.docname)
    reference.update_all_atts({"py:module": env.ref_context.get("py:module"), "perhaps": True})
    reference["py:class"] = env.ref_context.get("py:class")
    return [reference], []


def _as_code(app: Sphinx, env: Any, node: pending_xref, shown: nodes.Element) -> nodes.Element | None:
    """What is not described here stays as it is shown: names in docstrings, and types in their signatures."""
    own = node.get("refdomain") == "py" and re.match(r"api/(?!index)", node.get("refdoc", ""))
    return shown if node.get("perhaps") or own else None


def _to_rst(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    result: list[str] = []
    in_code = in_section = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if _SECTION.match(line):
            in_section = True
        elif line and not indent:
            in_section = False
        begins = bool(indent) and not in_section and not in_code and (not result or not result[-1].strip())
        if begins:
            result += [".. code-block:: python", "   :force:", ""]  # an ellipsis is no Python
            in_code = True
        elif line and not indent:
            in_code = False
        if not in_code and line[:2] == "- " and result and result[-1].strip() and result[-1][:2] not in ("- ", "  "):
            result.append("")
        if in_section and _SEVERAL.match(line):
            line = line.replace(", ", ",", line.partition(":")[0].count(","))  # "rtol, atol" is no type and a name
        result.append(line if in_code else _escaped(line))
    lines[:] = result


def _escaped(line: str) -> str:
    """The line with what reStructuredText would take for markup escaped, outside of backticks."""
    parts = line.split("`")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"[*|\\]|(?<=\w)_(?!\w)", lambda found: "\\" + found.group(), parts[i])
    return "`".join(parts)


def _shorter(app: Sphinx, what: str, name: str, found: Any, options: Any, signature: str | None, returns: str | None):
    """Without the fields that every Linen module has, and without addresses in memory."""
    if signature:
        signature = re.sub(r", parent: .*?, name: [^,)]*", "", signature)
        signature = re.sub(r"\(parent: .*?, name: [^,)]*\)", "()", signature)
        signature = re.sub(r"<function ([\w.]+) at 0x\w+>", r"\1", signature)
        signature = re.sub(r" at 0x[0-9a-f]+", "", signature)
    return signature, returns


def _skip(app: Sphinx, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """A field of a named tuple is described with the tuple."""
    return True if str(getattr(found, "__doc__", "")).startswith("Alias for field number") else None
