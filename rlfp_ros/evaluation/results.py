"""Writes measurements: JSON files, and tables between the marks of a page."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rlfp_ros.evaluation.statistics import interquartile_mean, iqm_bootstrap95
from rlfp_ros.files import write_whole
from rlfp_ros.schema import ConfigurationError


def provenance(program: str, words: Sequence[str]) -> dict[str, Any]:
    """Return date and command of a measurement, without the option `--json` and its file."""
    kept = list(words)
    if "--json" in kept:
        at = kept.index("--json")
        del kept[at : at + 2]
    return {"date": f"{date.today()}", "command": " ".join([program, *kept])}


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a result file completely or not at all. Raises ConfigurationError if it cannot be written."""
    write_whole(path, json.dumps(document, indent=2) + "\n", "run the command again or choose another --json")


def around(page: Path, first: str, last: str) -> tuple[str, str]:
    """Return a page's text before the line `first` and after the line `last`.

    Raises ConfigurationError if one of them is missing or the page cannot be read.
    """
    if not page.is_file():
        raise ConfigurationError(f"{page}: no such file; choose another page")
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{page}: cannot be read ({error}); choose another page") from None
    before, found, rest = text.partition(first)
    _, ended, after = rest.partition(last)
    if not found or not ended:
        raise ConfigurationError(f"{page}: has no {first} ... {last}; add both lines where the table belongs")
    return before, after


def read_json(path: Path) -> dict[str, Any]:
    """Read earlier results, to continue with them; an empty dictionary if there is no such file.

    Raises ConfigurationError if the file is not a JSON object.
    """
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{path}: cannot be read as JSON ({error}); delete it or choose another file"
        ) from None
    if not isinstance(document, dict):
        raise ConfigurationError(
            f"{path}: is a JSON {type(document).__name__}, expected an object; delete it or choose another file"
        )
    return document


def put_between(page: Path, first: str, last: str, text: str) -> None:
    """Replace the text between two lines of a page. Raises ConfigurationError if they are missing."""
    before, after = around(page, first, last)
    write_whole(page, f"{before}{first}\n{text}\n{last}{after}", "run the command again or choose another --document")


def figure_text(values: list[float], digits: int) -> str:
    """Return the interquartile mean over trainings and its 95 % bootstrap interval; "missing" if there are none."""
    if not values:
        return "missing"
    middle = f"{interquartile_mean(values):.{digits}f}"
    if len(values) == 1:
        return middle
    low, high = iqm_bootstrap95(values)
    return f"{middle} ({low:.{digits}f} to {high:.{digits}f})"


def code_commit() -> str:
    """Return the commit of this code, with "+changes" if files differ from it, or "unknown" outside a git checkout."""
    try:
        folder = Path(__file__).parent
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+changes" if changed.stdout.strip() else "")
