"""What the documentation takes from the source while it is built, so that it cannot go stale.

A Sphinx extension with three directives: `api` documents every public name, `commands` the command
line, `house` draws which part uses which. Formulas become MathML, which browsers show by
themselves, so that pages ask for nothing from elsewhere.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import latex2mathml.converter
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import offramp
from tools.house import House, drawing, rooms

_FIELD = re.compile(r"^    (\w+): [^#\n]*  # (.+)$", re.MULTILINE)
_HELP = re.compile(r"^\* `--help`: .*\n", re.MULTILINE)


class Api(SphinxDirective):
    """Every name of `__all__` of a package, in its order, from its docstring.

    Names that stand under offramp itself are left to it.
    """

    optional_arguments = 1  # a package; offramp itself

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0] if self.arguments else offramp.__name__
        lines = ["```{eval-rst}"]
        for name in public_names(package):
            about = _about(package, name)
            lines += [f".. {_directive(package, name)}:: {package}.{name}", *about, ""]
        return _parsed(self, "\n".join([*lines, "```"]))


def public_names(package: str) -> list[str]:
    """What a package hands on and offramp itself does not."""
    names: list[str] = import_module(package).__all__
    above = offramp.__all__ if package != offramp.__name__ else []
    return [name for name in names if name not in above]


def _directive(package: str, name: str) -> str:
    found = getattr(import_module(package), name)
    if inspect.isclass(found):
        return "autoexception" if issubclass(found, Exception) else "autoclass"
    return "autofunction" if inspect.isfunction(found) else "py:data"


def _about(package: str, name: str) -> list[str]:
    """What follows a directive: data has no docstring, so its keys are shown."""
    if _directive(package, name) == "autoclass":
        return ["   :members:"]
    if _directive(package, name) != "py:data":
        return []
    found = getattr(import_module(package), name)
    keys = [f"`{key}`" for key in found] if isinstance(found, Mapping) else [f"`{found}`"]
    return ["", f"   {', '.join(keys)}"]


class Commands(SphinxDirective):
    """Every command with its arguments and options, as Typer describes them."""

    def run(self) -> list[nodes.Node]:
        return _parsed(self, commands())


def commands() -> str:
    """The command line in Markdown: one heading a command, without the title and `--help`."""
    (entry,) = entry_points(group="console_scripts", name="offramp")
    command = [sys.executable, "-m", "typer", entry.module, "utils", "docs", "--name", entry.name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = _HELP.sub("", done.stdout.partition("\n")[2])
    text = re.sub(r"^Example: (.+)$", r"Example: `\1`", text, flags=re.MULTILINE)
    return re.sub(r"\*\*Options\*\*:\n\n(?!\*)", "", text)


class HouseDrawing(SphinxDirective):
    """Which part of the source uses which."""

    def run(self) -> list[nodes.Node]:
        svg = drawing(House.of(rooms()))
        return [nodes.raw("", f'<div class="house">\n{svg}</div>', format="html")]


def _parsed(directive: SphinxDirective, text: str) -> list[nodes.Node]:
    """What Markdown says, in the place of the directive."""
    lines = StringList(text.splitlines(), source=directive.get_source_info()[0])
    found: list[nodes.Node] = directive.parse_text_to_nodes(
        "\n".join(lines), allow_section_headings=True
    )
    return found


def add_fields(
    app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """Adds what the comments beside the fields of a record say of them to its docstring."""
    if what != "class" or not is_dataclass(found) or any(line == "Args:" for line in lines):
        return
    described = _FIELD.findall(inspect.getsource(found))  # type: ignore[arg-type]
    if described:
        about = [f"    {field}: {_plain(text)}" for field, text in described]
        lines += ["", "Attributes:", *about, ""]


def _plain(text: str) -> str:
    """Marks of reStructuredText outside `names` as the characters that they are."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*_|\\])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def inline_math(translator: Any, node: nodes.Element) -> None:
    translator.body.append(latex2mathml.converter.convert(node.astext()))
    raise nodes.SkipNode


def block_math(translator: Any, node: nodes.Element) -> None:
    found = latex2mathml.converter.convert(node.astext(), display="block")
    translator.body.append(f'<div class="math">{found}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Tells Sphinx of all that."""
    app.add_directive("api", Api)
    app.add_directive("commands", Commands)
    app.add_directive("house", HouseDrawing)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("autodoc-process-docstring", add_fields, priority=100)  # before Google's sections
    return {"parallel_read_safe": True}
