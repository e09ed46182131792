"""Tables and texts that the generated parts of the documentation consist of."""

from __future__ import annotations

import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterable

from pydantic import BaseModel


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    lines: list[list[object]] = [list(header), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(_escaped(str(cell)) for cell in line) + " |" for line in lines)


def _escaped(cell: str) -> str:
    """Return a cell's text without characters that end the cell or, outside `code`, begin an HTML element."""
    parts = cell.replace("|", "\\|").split("`")
    return "`".join(text if number % 2 else text.replace("<", "\\<") for number, text in enumerate(parts))


def field_comments(model: type[BaseModel]) -> dict[str, str]:
    """Return the comment of each field of a class and of the classes that it extends."""
    ours = [kind for kind in reversed(model.__mro__) if kind.__module__.startswith("rlfp_ros.")]
    return {name: text for kind in ours for name, text in _comments(kind).items()}


def _comments(model: type[object]) -> dict[str, str]:
    """The comment at the end of the line, or on the lines before, of each field of a class."""
    source = textwrap.dedent(inspect.getsource(model))
    found: dict[str, str] = {}
    above: list[str] = []
    name, first = "", False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ").strip()
            if token.line.strip().startswith("#"):
                above.append(text)
            elif name:
                found[name] = text
        elif token.type == tokenize.NAME and first and re.match(rf"\s+{token.string}\s*:", token.line):
            name = token.string
            if above:
                found[name] = " ".join(above)
            above = []
        elif token.type == tokenize.NEWLINE:
            name = ""
        first = token.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT)
    return found
