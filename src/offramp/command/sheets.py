"""Tables of which nothing is cut: side by side where they fit, else a block for each row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from offramp.base.palette import colour

Cell = str | Text
_ENDLESS = 100_000  # characters: more than any row
_GAP, _INDENT = "   ", "  "


def painted(text: str, stages: Sequence[str]) -> Text:
    """The text, with the names of stages in their colours.

    Args:
        text: one line.
        stages: all of a graph, in its order.
    """
    found = Text(text)
    for position, stage in enumerate(stages):
        found.highlight_regex(rf"(?<![\w-]){re.escape(stage)}(?![\w-])", colour(position))
    return found


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Rows of the same columns, the first of which names the row."""

    title: str = ""
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    texts: int = 1  # columns from the left that are no numbers
    caption: str = ""
    framed: bool = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table()
        needed = Measurement.get(console, options.update(max_width=_ENDLESS), table).maximum
        width = options.max_width
        yield from _prose(self.title, width, style="italic")
        if needed <= width or not console.is_terminal:  # a file has no edge
            yield from console.render(table, options.update(max_width=max(needed, width)))
        else:
            for row in self.rows:
                yield from self._block(row, width)
        yield from _prose(self.caption, width, style="dim")

    def _table(self) -> Table:
        plain = {"box": box.SIMPLE_HEAD, "padding": 0, "show_edge": False}
        table = Table(**({} if self.framed else plain))  # type: ignore[arg-type]
        for number, name in enumerate(self.columns):
            justify = "left" if number < self.texts else "right"
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*map(_text, row))
        return table

    def _block(self, row: Sequence[Cell], width: int) -> Iterator[Text]:
        """The name in one line, and below it what is there of the row, as much as fits in each."""
        title = _flat(_text(row[0]))
        title.stylize("bold")
        yield _whole(title)
        line = Text(_INDENT)
        for name, cell in zip(self.columns[1:], row[1:], strict=True):
            value = _flat(_text(cell))
            if not value.plain:
                continue
            pair = Text.assemble((name, "dim"), " ", value)
            if line.plain.strip() and line.cell_len + len(_GAP) + pair.cell_len > width:
                yield _whole(line)
                line = Text(_INDENT)
            line = Text.assemble(line, _GAP if line.plain.strip() else "", pair)
        if line.plain.strip():
            yield _whole(line)


@dataclass(frozen=True)
class Facts:
    """Names and what there is to say of each."""

    title: str
    lines: Sequence[tuple[Cell, Cell]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        names = max(_text(name).cell_len for name, _ in self.lines)
        words = (word for _, value in self.lines for word in _text(value).plain.split())
        needed = names + max(map(cell_len, words), default=0) + len("│  │  │")
        yield from _prose(self.title, width, style="italic")
        if needed <= width or not console.is_terminal:
            yield from console.render(self._table(), options.update(max_width=max(needed, width)))
            return
        for name, value in self.lines:
            yield _whole(_text(name))
            yield from _prose(value, width, _INDENT)

    def _table(self) -> Table:
        table = Table(show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in self.lines:
            table.add_row(_text(name), _text(value))
        return table


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)


def _flat(text: Text) -> Text:
    """On one line."""
    return Text(" ").join(text.split("\n"))


def _whole(text: Text) -> Text:
    """A line that is never broken or cut, longer than the terminal is wide if need be."""
    found = text.copy()
    found.no_wrap, found.overflow = True, "ignore"
    return found


def _prose(text: Cell, width: int, indent: str = "", style: str = "") -> Iterator[Text]:
    """Lines that are broken between words alone."""
    whole = _text(text)
    for line in whole.split("\n") if whole else ():
        for part in line.divide(_breaks(line.plain, width - len(indent))):
            part.rstrip()
            part.stylize(style)
            yield _whole(Text.assemble(indent, part))


def _breaks(line: str, width: int) -> list[int]:
    """Where further lines begin, each at a word."""
    begins = [0]
    for word in re.finditer(r"\S+", line):
        if word.start() > begins[-1] and cell_len(line[begins[-1] : word.end()]) > width:
            begins.append(word.start())
    return begins[1:]
