"""Tables for a terminal of any width, in which no word is broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

GAP = 2
"""Blanks between two columns."""


class Listing(Table):
    """A table without borders, whose cells are broken between words only.

    Where the longest words of all columns do not fit side by side, the columns with the longest
    ones move out of the row that the others make: the first, an id, above it, any other below.
    """

    def __init__(self, *columns: str) -> None:
        super().__init__(*columns, box=None, pad_edge=False, header_style="bold")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines for the width of ``options``."""
        words = [_longest(column, str.split) for column in self.columns]
        beside = list(range(len(words)))
        while len(beside) > 1 and sum(words[i] + GAP for i in beside) - GAP > options.max_width:
            beside.remove(max(beside, key=lambda i: words[i]))
        widths = self._widths(words, beside, options.max_width)
        moved = {i: [*column.cells] for i, column in enumerate(self.columns) if i not in beside}
        if not moved:
            yield self._part(beside, widths, range(self.row_count), self.show_header)
            return
        yield self._part(beside, widths, [], self.show_header)
        for row in range(self.row_count):
            shown = {i: str(cells[row]) for i, cells in moved.items() if str(cells[row])}
            if 0 in shown:
                yield Text(shown.pop(0))
            yield self._part(beside, widths, [row], header=False)
            if shown:
                below = (f"{self.columns[i].header} {text}".strip() for i, text in shown.items())
                yield Padding(Text("  ".join(below)), (0, 0, 0, GAP))

    def _widths(self, words: Sequence[int], beside: Sequence[int], room: int) -> dict[int, int]:
        """The widths of the columns: the longest word at least, the longest line at most."""
        widths = {i: words[i] for i in beside}
        lines = {i: _longest(self.columns[i], str.splitlines) for i in beside}
        left = room - sum(widths.values()) - GAP * (len(beside) - 1)
        while left > 0 and (short := [i for i in beside if widths[i] < lines[i]]):
            widths[min(short, key=lambda i: widths[i])] += 1
            left -= 1
        return widths

    def _part(
        self, beside: Sequence[int], widths: dict[int, int], rows: Sequence[int], header: bool
    ) -> Table:
        """Some columns and rows of it as a table of fixed widths."""
        part = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
        for i in beside:
            column = self.columns[i]
            part.add_column(column.header, justify=column.justify, width=widths[i], overflow="fold")
        cells = [list(self.columns[i].cells) for i in beside]
        for row in rows:
            part.add_row(*(column[row] for column in cells))
        return part


def _longest(column: Column, parts: Callable[[str], list[str]]) -> int:
    """Width in cells of the longest part of a column's texts, its header among them."""
    texts = [str(column.header), *map(str, column.cells)]
    return max((cell_len(part) for text in texts for part in parts(text)), default=0)
