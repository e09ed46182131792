"""Tests that docstrings, comments, messages and pages contain none of the patterns that we found hard to read."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("rlfp_ros", "benchmarks", "test", "examples", "docs", "launch", "config", "sim")
FILES = sorted(
    path
    for path in [ROOT / "rlfp", *ROOT.glob("*.md"), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*"))]
    if path.suffix in (".py", ".md", ".yaml") or path == ROOT / "rlfp"
)

# What to look for, and what to write instead.
PATTERNS = {
    r"\b[Rr]aises? \w+ where\b": "if",
    r"\bNone where\b": "None if",
    r"\bin place of\b": "instead of",
    r"\bparts from\b": "diverges from",
    r"\bnobody\b|\bsomebody\b": "name the process, or 'no one' for a person",
    r"\bis no (list|scene|node|picture|image|name|file|script|folder) of\b": "is not a ...",
    r"\bpictures?\b": "image",
    r"\bgoes on\b|\bgo on\b": "continues",
    r"(?m)^\s*(?:r?\"\"\"|# )(What|Where|How) [a-z]+ (is|are|a|the|of|it)\b(?!.*\?)": "a verb or a noun: 'Builds ...'",
    r"# .*, an? (image|frame|update|step|tick|episode)$": "per image, per frame, ...",
    r"\bthe last but one\b": "name it",
    r"\bwhoever\b|\bwhosoever\b": "name the process or the person",
    r"\btold last\b": "the last command",
    r"\bas it stands\b": "the present state",
    r"\bis only seen\b|\bonly seen\b": "has no collision, or is only visible",
    r"\bput right\b": "correct",
    r"\bsays? of itself\b": "reports",
    r"\bits? is no other\b|\bis none of them\b": "is not ...",
    r"(?m)^\s*(?:r?\"\"\")(One|How) (a|the|of|that|in|this)\b": "a verb or the name of the thing",
    r"# Of (the|a|an|its)\b": "complete the sentence",
    r"# of (what|which|the most|the same)\b": "name the quantity and its unit",
}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of what a person reads: a whole page, or the comments and strings of a Python file."""
    content = path.read_text(encoding="utf-8")
    if path.suffix in (".md", ".yaml"):
        yield 1, content
        return
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or token.type == getattr(tokenize, "FSTRING_MIDDLE", -1):
            yield token.start[0], token.string


def findings(path: Path) -> list[str]:
    found = []
    for line, text in texts(path):
        for pattern, instead in PATTERNS.items():
            for match in re.finditer(pattern, text):
                at = line + text.count("\n", 0, match.start())
                found.append(f"{path.relative_to(ROOT)}:{at}: {match.group().strip()!r}; write: {instead}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_plain(path: Path) -> None:
    if path == Path(__file__):
        return  # holds the patterns
    assert findings(path) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('"""Raises ConfigurationError where the file is missing."""', 1),
        ("rate = 0.01  # share of certainty lost, a frame", 1),
        ("rate = 0.01  # of what is known", 1),
        ('"""Raises ConfigurationError if the file is missing."""', 0),
        ("rate = 0.01  # per frame", 0),
    ],
)
def test_the_checker_finds_the_patterns(text: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "file.py").write_text(text + "\n")
    assert len(findings(tmp_path / "file.py")) == count
