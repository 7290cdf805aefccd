"""Equations as MathML, written when the site is built: a browser shows them without a script and without a network."""

from __future__ import annotations

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_LOG = logging.getLogger(__name__)
_CONVERTER = LatexToMathML()


def setup(app: Sphinx) -> dict[str, bool]:
    """Enters the renderer, which `html_math_renderer` names."""
    app.add_html_math_renderer("mathml", (_write, None), (_write, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(page: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    latex, display = node.astext(), isinstance(node, nodes.math_block)
    try:
        page.body.append(_CONVERTER.convert_with_local_state(latex, displaystyle=display))
    except LatexError as error:
        _LOG.warning("this equation cannot be shown, %s: %s", error, latex, location=node)
    raise nodes.SkipNode
