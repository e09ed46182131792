"""Generated part of the page about webcams: the latency of the camera node, from docs/measured/."""

from __future__ import annotations

import json
from pathlib import Path

from page_tables import table

MEASURED = Path(__file__).resolve().parent / "measured"
COLUMNS = ("published_ms_p50", "published_ms_p99", "received_ms_p50", "received_ms_p99")


def latency() -> str:
    """Return the latency of the camera node, from docs/measured/camera.json."""
    document = json.loads((MEASURED / "camera.json").read_text(encoding="utf-8"))
    rows = ([f"`{row['camera']}`", row["size"], *(f"{row[name]:.1f}" for name in COLUMNS)] for row in document["rows"])
    header = ("camera", "size", "published p50", "p99", "received p50", "p99")
    return (
        f"{table(header, rows)}\n\nMilliseconds from an image's stamp to its publication, and to its reception in "
        f"another process, measured {document['date']} on {document['machine']} by `./rlfp bench camera`. `uvc` "
        "captures MJPEG from the fake device, which delivers an image at the moment of its stamp: exposure, the "
        "camera's own delay and USB come on top."
    )
