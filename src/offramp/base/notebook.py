"""How notebooks show a record: as a small table of escaped text."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def table_html(caption: str, rows: Iterable[tuple[str, str]]) -> str:
    """An HTML table of names and values; nothing in them is read as HTML."""
    cells = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table><caption>{escape(caption)}</caption><tbody>{cells}</tbody></table>"
