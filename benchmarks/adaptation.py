"""What adaptation brings: a bundle before and after each method, in the room of the recording and in a source room.

The data is a dataset that was recorded with the bundle in the first room, with other seeds than those that are played
here. A method whose bundle is refused by the acceptance test has no figures, but the reason. All rows are kept in the
JSON file, and a second call continues with those that are missing.

    ./rlfp bench adaptation --data runs/tint_data [--bundle push_panda] [--json docs/measured/adaptation.json]
"""

from __future__ import annotations

import argparse
import time
from datetime import date
from pathlib import Path
from typing import Any

from rlfp_ros.adaptation.adapt import adapt
from rlfp_ros.adaptation.adaptation import ADAPTATIONS, AdaptationTraining
from rlfp_ros.cli.parsing import add_result, natural, parse_benchmark, positive
from rlfp_ros.contract import Bundle, load_bundle
from rlfp_ros.data.dataset import Dataset, load_dataset
from rlfp_ros.evaluation.evaluate import evaluate
from rlfp_ros.evaluation.results import code_commit, put_between, read_json, write_json
from rlfp_ros.schema import ConfigurationError

ZERO_SHOT = "zero-shot"
MARKS = ("<!-- benchmarks/adaptation.py begins -->", "<!-- benchmarks/adaptation.py ends -->")
WORLD = "mujoco"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench adaptation", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=Path("runs/tint_data"), help="a dataset that the bundle recorded in the first room"
    )
    parser.add_argument("--bundle", default="push_panda", help="a folder, or a name in models/")
    parser.add_argument("--rooms", nargs="+", default=["adapt_tint", "twin_near"], help="the first is the data's")
    parser.add_argument("--methods", nargs="+", default=[ZERO_SHOT, *ADAPTATIONS], help="names of methods")
    parser.add_argument("--episodes", type=positive, default=20, help="per room and method")
    parser.add_argument("--seed", type=natural, default=0, help="of the first episode")
    parser.add_argument("--updates", type=positive, default=AdaptationTraining().updates, help="gradient steps")
    add_result(parser, "--work", folder=True, default=Path("runs/adaptation"), help="folder of the adapted bundles")
    add_result(parser, "--json", default=Path("docs/measured/adaptation.json"))
    add_result(parser, "--document", page=MARKS, help="a page between whose marks the table is put")
    options = parse_benchmark(parser, argv)
    document = read_json(options.json)
    rows: list[dict[str, Any]] = document.setdefault("rows", [])
    bundle, dataset = load_bundle(options.bundle), load_dataset(options.data)
    digests = [entry.sha256[:12] for entry in dataset.document.episodes]
    recorded = {
        "episodes": len(dataset.document.episodes),
        "seconds": round(sum(entry.duration_s for entry in dataset.document.episodes), 1),
        "digests": digests,
    }
    for method in options.methods:
        key = {"bundle": bundle.contract.name, "recorded_in": options.rooms[0], "method": method}
        key |= {"updates": options.updates, "digest": digests[0]}
        row = next((row for row in rows if key.items() <= row.items()), None)
        if row is None:
            row = {**key, "recorded": recorded, "date": f"{date.today()}", "commit": code_commit(), "rooms": {}}
            row |= adapted_row(bundle, dataset, method, options)
            rows.append(row)
            write_json(options.json, document)
        if row.get("refused"):
            continue
        place = bundle.directory if method == ZERO_SHOT else options.work / folder_of(bundle, method, options)
        for room in options.rooms:
            done = row["rooms"].get(room)
            if done is None or (done["seed"], done["episodes"]) != (options.seed, options.episodes):
                result = evaluate(place, room, options.episodes, options.seed, WORLD)
                names = ("seed", "episodes", "successes", "success_rate", "wilson95", "mean_steps", "wall_s", "commit")
                row["rooms"][room] = {name: result[name] for name in names}
                write_json(options.json, document)
    text = markdown(rows)
    print(text)
    if options.document is not None:
        put_between(options.document, *MARKS, text)
    return 0


def folder_of(bundle: Bundle, method: str, options: argparse.Namespace) -> str:
    """Return the name of an adapted bundle's folder."""
    return f"{bundle.contract.name}_{options.rooms[0]}_{method}"


def adapted_row(bundle: Bundle, dataset: Dataset, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Adapt the bundle; return the scores of the acceptance test and the minutes, or why it was refused."""
    if method == ZERO_SHOT:
        return {}
    out, began = options.work / folder_of(bundle, method, options), time.process_time()
    try:
        adapted = adapt(bundle, dataset, method, out, AdaptationTraining(updates=options.updates))
    except ConfigurationError as error:
        return {"refused": str(error).partition("not written: ")[2] or str(error)}
    facts = adapted.contract.provenance["adaptation"]
    assert isinstance(facts, dict)
    return {
        "processor_minutes": round((time.process_time() - began) / 60, 2),
        "before": facts["before"],
        "after": facts["after"],
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    rooms = list(dict.fromkeys(room for row in rows for room in row["rooms"]))
    lines = [
        f"| bundle | recorded in | method | {' | '.join(rooms)} | arm's points, px | share held | minutes |",
        "|---" * (6 + len(rooms)) + "|",
    ]
    for row in rows:
        played = [row["rooms"].get(room) for room in rooms]
        cells = [f"{each['successes']} of {each['episodes']}" if each else "" for each in played]
        after = row.get("after")
        scores = (
            [f"{after['reprojection_px']:.2f}", f"{after['held']:.0%}", f"{row['processor_minutes']:.1f}"]
            if after
            else ["", "", ""]
        )
        if row.get("refused"):
            scores[0] = f"not written: {row['refused'].partition(';')[0]}"
        cells = [row["bundle"], row["recorded_in"], f"`{row['method']}`", *cells, *scores]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
