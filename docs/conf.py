"""How Sphinx builds the course's site; `tito docs build` lays out the pages and calls it."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

project = "TinyTorch"
author = "the authors of TinyTorch"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design", "sphinx.ext.autodoc"]
html_theme = "sphinx_book_theme"
html_title = "TinyTorch"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": True,
    "navbar_persistent": [],  # a bar on top would hide the button of the menu on a phone
}
html_math_renderer = "mathml"
nb_execution_mode = "off"  # a student's notebook has nothing to run yet
nb_number_source_lines = False
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
exclude_patterns = ["_build"]
pygments_style = "friendly"


# math: browsers draw MathML themselves, so that the site needs no script and no network


def inline_math(self, node: nodes.math) -> None:
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block_math(self, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>\n')
    raise nodes.SkipNode


# docstrings are plain text: what reStructuredText would read as markup stays as it is


def plain_text(app, what, name, obj, options, lines: list[str]) -> None:
    example = False
    for i, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example:
            parts = re.split(r"(`[^`]+`)", line)
            lines[i] = "".join(
                f"`{part}`" if part.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", part)
                for part in parts
            )


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("autodoc-process-docstring", plain_text)
