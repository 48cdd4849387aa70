"""Settings of the documentation; `scripts/docs` builds it."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for what pages take from the source: tools/pages.py

from offramp import __version__  # noqa: E402 - not before the path

project = "offramp"
author = "The offramp authors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "tools.pages"]
exclude_patterns = ["*.py"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
smartquotes = False  # they make one dash of the two before an option
default_role = "code"  # docstrings write `names` between single marks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("AnyArray", "FloatArray", "IntArray", "Deployable")}
maximum_signature_line_length = 60
napoleon_use_ivar = True
html_show_copyright = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Source", "notes_style")]
html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"offramp {release}"
html_static_path = ["static"]
html_css_files = ["offramp.css"]
html_copy_source = False
html_show_sphinx = False
