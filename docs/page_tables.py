"""Markdown that the generated parts of the documentation consist of."""

from __future__ import annotations

from collections.abc import Iterable


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    lines: list[list[object]] = [list(header), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(_escaped(str(cell)) for cell in line) + " |" for line in lines)


def _escaped(cell: str) -> str:
    """Return a cell's text without characters that end the cell or, outside `code`, begin an HTML element."""
    parts = cell.replace("|", "\\|").split("`")
    return "`".join(text if number % 2 else text.replace("<", "\\<") for number, text in enumerate(parts))
