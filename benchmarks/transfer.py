"""How much of a bundle's success is left in worlds that training never saw: a sim-to-sim proxy for an arm.

    python benchmarks/transfer.py reach_panda --episodes 200 --json benchmarks/results/transfer.json

Plays the same seeds in PyBullet under `train` and `validation` and in every MuJoCo room. Resumable: a row that the
result file already has, for the same bundle and number of episodes, is not played again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rlfp_ros.bundle import load_bundle
from rlfp_ros.evaluation.evaluate import evaluate, write_json

PLACES = (
    ("pybullet", "train"), ("pybullet", "validation"), ("mujoco", "twin_near"), ("mujoco", "twin_dim"),
    ("mujoco", "twin_glare"), ("mujoco", "twin_clutter"), ("mujoco", "twin_moved"),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is missing, print the table."""
    parser = argparse.ArgumentParser(prog="rlfp bench transfer", description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="*", default=["reach_panda"], help="bundle folders, or names in models/")
    parser.add_argument("--episodes", type=int, default=200, help="in each place (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=100_000, help="of the first episode (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("runs/transfer.json"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    document = json.loads(options.json.read_text()) if options.json.exists() else {"rows": []}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    document |= {"date": date.today().isoformat(), "machine": machine}
    wanted = []
    for bundle in options.bundles:
        identity = _identity(bundle)
        for world, profile in PLACES:
            key = {"identity": identity, "world": world, "profile": profile, "episodes": options.episodes,
                   "seed": options.seed}  # fmt: skip
            row = next((row for row in document["rows"] if key.items() <= row.items()), None)
            if row is None:
                result = evaluate(bundle, profile, options.episodes, options.seed, world=world)
                row = result | {"identity": identity}
                document["rows"].append(row)
                write_json(options.json, document)  # after every row: an interrupted run goes on here
                console.print(f"{row['bundle']} in {world}, {profile}: {row['successes']} of {row['episodes']}")
            wanted.append(row)
    console.print(_table(wanted))
    console.print(f"{document['date']}, {machine}; rooms are a sim-to-sim proxy, no arm was used")
    return 0


def _identity(bundle: str) -> str:
    """Changes when the networks do."""
    files = load_bundle(bundle).contract.files
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True, default=str).encode()).hexdigest()[:12]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="success by place, the same seeds everywhere", title_justify="left")
    for name in ("bundle", "world", "profile or room", "success", "95 % (Wilson)", "against train", "mean frames"):
        table.add_column(name)
    home = {row["identity"]: row["success_rate"] for row in rows if row["profile"] == "train"}
    for row in rows:
        low, high = row["wilson95"]
        table.add_row(
            row["bundle"], row["world"], row["profile"], f"{row['successes']} of {row['episodes']}",
            f"{low:.0%} to {high:.0%}", f"{100 * (row['success_rate'] - home[row['identity']]):+.0f} points",
            f"{row['mean_steps']:.0f}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    raise SystemExit(main())
