"""The site: `sphinx-build -W -n --keep-going -b html docs docs/_build/html`."""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # the pages that are made here, and the packages of this checkout

_PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
version = release = _PROJECT["version"]
author = ""  # the next line names them
copyright = "the authors, Apache License 2.0"
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_copybutton",
    "generated_pages",
    "docstrings",
    "equations",
]
exclude_patterns = ["_build", "notebooks/pictures.txt"]

html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_title = "flaxzoo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "collapse_navbar": True,  # a page shows its own section open: all of them, on all pages, double the time of a build
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the side bar has the search
    "navigation_with_keys": False,
    "use_download_button": False,
    "use_fullscreen_button": False,
}

nb_execution_mode = "off"  # notebooks are stored with what they gave
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
highlight_language = "python"
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
default_role = "name"
