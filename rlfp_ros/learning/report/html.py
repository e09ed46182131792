"""Builds HTML from nested elements; text is escaped unless it is `Markup`."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence


class Markup(str):
    """HTML, which is not escaped again."""


def element(tag: str, *children: str | Iterable[str], **attributes: str) -> Markup:
    """Return an element.

    Parameters
    ----------
    tag
        Its name.
    children
        Text and elements; also lists of them.
    attributes
        Attributes; `class_` stands for `class`, and other underscores stand for hyphens.
    """
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items())
    if tag in ("img", "input", "meta"):
        return Markup(f"<{tag}{words}>")
    return Markup(f"<{tag}{words}>{''.join(_flat(children))}</{tag}>")


def _flat(children: Iterable[str | Iterable[str]]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, str):
            yield html.escape(child)
        else:
            yield from _flat(child)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Return a table, which scrolls by itself if it is wider than the page."""
    head = element("tr", [element("th", cell, scope="col") for cell in header])
    body = [element("tr", [element("td", cell) for cell in row]) for row in rows]
    return element("div", element("table", element("thead", head), element("tbody", body)), class_="scroll")


def data_uri(media_type: str, data: bytes) -> str:
    """Return a file's contents as an address, for an image inside the page."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def page(title: str, style: str, *body: str | Iterable[str]) -> str:
    """Return a whole page, which loads nothing else."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(style)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', *body), lang='en')}\n"
