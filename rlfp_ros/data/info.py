"""`rlfp dataset info`: counts, rates, gaps and outcomes of a dataset, and a sheet with images of each episode."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlfp_ros.data.dataset import Dataset, load_dataset
from rlfp_ros.perception.images import write_image
from rlfp_ros.recording.labels import count_labels

SHEET_FILE = "contact_sheet.png"
COLUMNS, MOST_ROWS = 8, 12  # of the sheet: images per episode, and episodes
TILE, CAPTION = 96, 14  # px


def run(directory: Path, console: Console | None = None) -> int:
    """Print what a dataset holds, write its contact sheet and return the exit code."""
    console = console or Console(highlight=False)
    dataset = load_dataset(directory)
    document = dataset.document
    title = f"{directory}: {document.bundle} (task {document.task}) on arm {document.arm}"
    console.print(escape(title), soft_wrap=True)
    table = Table()
    counted = ("answered", "admitted", "by a person")
    for name in ("episode", "bag", "images", "s", "Hz", "longest gap s", *counted, "outcome", "label"):
        table.add_column(name)
    for number, entry in enumerate(document.episodes):
        numbers = (entry.frames, f"{entry.duration_s:.1f}", f"{entry.rate_hz:.1f}", f"{entry.longest_gap_s:.3f}")
        counts = (entry.answered, entry.admitted, entry.by_person)
        label = escape(str(entry.label)) if entry.label else ""
        table.add_row(str(number), escape(entry.bag), *map(str, (*numbers, *counts)), entry.outcome, label)
    console.print(table)
    outcomes = Counter(entry.outcome for entry in document.episodes)
    frames, seconds = (sum(getattr(entry, name) for entry in document.episodes) for name in ("frames", "duration_s"))
    ended = ", ".join(f"{outcomes[name]} {name}" for name in ("won", "lost", "unknown") if outcomes[name])
    console.print(f"{len(document.episodes)} episodes, {frames} images, {seconds:.1f} s: {ended}")
    if any(entry.label for entry in document.episodes):
        labels = count_labels(entry.label.label if entry.label else "" for entry in document.episodes)
        console.print(f"labels: {labels}")
    for remark in document.remarks:
        console.print(f"  {escape(remark)}", soft_wrap=True)
    sheet = directory / SHEET_FILE
    write_image(sheet, contact_sheet(dataset), "run the command again")
    console.print(f"wrote {escape(str(sheet))}", soft_wrap=True)
    return 0


def contact_sheet(dataset: Dataset) -> np.ndarray:
    """Return images of the first episodes, evenly spread over each: a row per episode, uint8 [H, W, 3] rgb."""
    entries = dataset.document.episodes[:MOST_ROWS]
    sheet = np.zeros((len(entries) * (TILE + CAPTION), COLUMNS * TILE, 3), np.uint8)
    for row, entry in enumerate(entries):
        images, y = dataset.episode(entry).images, row * (TILE + CAPTION)
        for column, number in enumerate(np.linspace(0, len(images) - 1, COLUMNS).round().astype(int)):
            tile = cv2.resize(images[number], (TILE, TILE), interpolation=cv2.INTER_AREA)
            sheet[y + CAPTION : y + CAPTION + TILE, column * TILE : (column + 1) * TILE] = tile
        text = f"episode {row}: {entry.outcome}, {entry.frames} images of {entry.bag}"
        cv2.putText(sheet, text, (3, y + 10), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (230, 230, 230), 1, cv2.LINE_AA)
    return sheet
