"""What commands print as tables: columns as wide as they need to be, plain text.

No colours and no terminal width: what is printed is the same in a pipe.
"""

from __future__ import annotations

from collections.abc import Sequence

BAR_CHARS = 12
_EIGHTHS = " ▏▎▍▌▋▊▉"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> list[str]:
    """Lines of a table; `right` has an `r` for each column that is set right, by its place."""
    every = [tuple(head), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if right[place : place + 1] == "r" else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in every
    ]


def bar(share: float) -> str:
    """A share of 0 to 1 as a bar of blocks, in eighths of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * BAR_CHARS * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(BAR_CHARS)
