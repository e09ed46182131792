#!/usr/bin/env python3
"""Writes the generated parts of docs/explanation/safety.md: its parameters, reason codes and measured tables.

    .venv/bin/python benchmarks/safety_document.py [--stops FILE] [--safety FILE] [--check]

`--stops` is what `benchmarks/fault_matrix.py --json` wrote, `--safety` what `./rlfp bench safety --json` wrote.
Without them the measured parts stay as they are. `--check` writes nothing and exits with 1 where docs and code differ
(`test/test_safety_document.py` does the same).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.safety.supervisor import Reason
from rlfp_ros.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "explanation" / "safety.md"

HOLD, STOP, GAIN, NONE = "HOLDING, clears itself", "STOPPED, latched", "residual gain 0, base goes on", "counted only"
REASONS: dict[Reason, tuple[str, str]] = {
    Reason.NOT_ENABLED: ("nobody called `enable`", "DISABLED"),
    Reason.WAITING_FOR_JOINT_STATE: (
        "no two joint states that agree (`joint_jump_rad`, `joint_state_max_age_s`) since activation or the episode's "
        "reset: one alone is nothing to start from",
        "HOLDING",
    ),
    Reason.WAITING_FOR_RESIDUAL: ("no residual yet", "residual gain 0, base goes on"),
    Reason.WAITING_FOR_STEP: ("step mode, and the one action is over", GAIN),
    Reason.INPUT_LATE: (
        "joint states, percepts or heartbeat older than half of what stops or holds the arm",
        "slower, and the gain falls",
    ),
    Reason.RESIDUAL_STALE: ("no residual for `residual_timeout_s`; the gain falls from `residual_fade_s`", GAIN),
    Reason.RESIDUAL_OLD: ("the residual's image is older than `residual_max_age_s`", GAIN),
    Reason.RESIDUAL_FUTURE: ("stamped more than `future_tolerance_s` ahead", GAIN),
    Reason.RESIDUAL_REPEATED: ("stamped like the one before, or earlier", f"{NONE}; `residual_stale` if it goes on"),
    Reason.RESIDUAL_NOT_FINITE: ("NaN or infinite", GAIN),
    Reason.RESIDUAL_SHAPE: ("not one value for each axis (six, or the arm's joints), or another frame", GAIN),
    Reason.RESIDUAL_RANGE: ("beyond `residual_range` times the bundle's scale: wrong units", GAIN),
    Reason.RESIDUAL_JUMP: ("a change beyond `residual_jump` times the bundle's scale", GAIN),
    Reason.RESIDUAL_GAP: ("stamps more than `residual_gap_s` apart: residuals or images were lost", NONE),
    Reason.PERCEPT_STALE: ("no new object pose (or domain shift) for `percept_timeout_s`", HOLD),
    Reason.PERCEPT_OLD: ("the object pose's image is older than `percept_max_age_s`", HOLD),
    Reason.PERCEPT_BAD: ("object pose or domain shift not finite, farther than 100 m, or stamped ahead", HOLD),
    Reason.PERCEPT_REPEATED: ("object pose stamped like the one before", f"{NONE}; `percept_stale` if it goes on"),
    Reason.DOMAIN_SHIFT: ("above `shift_hold` for `shift_time_s`; the gain falls from `shift_slow`", HOLD),
    Reason.JOINT_STATE_STALE: ("none received for `joint_state_timeout_s`", STOP),
    Reason.JOINT_STATE_OLD: ("its stamp is older than `joint_state_max_age_s`", STOP),
    Reason.JOINT_STATE_FUTURE: (
        "stamped more than `future_tolerance_s` ahead",
        f"{NONE}; `joint_state_stale` if it goes on",
    ),
    Reason.JOINT_STATE_REPEATED: ("stamped like the one before, or earlier", f"{NONE}; the same"),
    Reason.JOINT_STATE_MISSING: (
        "a message without all of the arm's joints",
        f"{NONE}; `joint_state_stale` if no other comes",
    ),
    Reason.JOINT_STATE_NOT_FINITE: ("NaN or infinite position or velocity", STOP),
    Reason.JOINT_STATE_JUMP: ("a step beyond what the joint's speed explains and `joint_jump_rad`", STOP),
    Reason.JOINT_STATE_FROZEN: ("identical for `joint_frozen_s` although the arm is told to move", STOP),
    Reason.TRACKING_ERROR: ("`tracking_error_rad` from every command of `tracking_window_s`, three times", STOP),
    Reason.EFFORT: ("beyond the arm's limit for `effort_time_s`", STOP),
    Reason.CLOCK_JUMP: ("ticks `clock_jump_s` apart, a clock that went back, or /clock standing still so long", STOP),
    Reason.HEARTBEAT_LOST: ("`require_heartbeat`, and none for `heartbeat_timeout_s`", STOP),
    Reason.ESTOP: ("`safety/estop` or the service", "STOPPED, latched even over an episode's reset"),
    Reason.INTERNAL_ERROR: ("an exception inside the controller; the stop sent last goes on", STOP),
}
UNIT = re.compile(r" ?\((s|1/s|Hz|m|rad|rad/s|1)\)")


def parameters() -> str:
    """Every parameter of the controller as a Markdown table, from `ControllerSettings`."""
    lines = ["| parameter | default | range | unit | what it is |", "|---|---|---|---|---|"]
    for name, info in ControllerSettings.model_fields.items():
        low = high = ""
        for constraint in info.metadata:
            for attribute, text in (("ge", "from {:g}"), ("gt", "above {:g}")):
                value = getattr(constraint, attribute, None)
                low = text.format(value) if value is not None else low
            value = getattr(constraint, "le", None)
            high = f" to {value:g}" if value is not None else high
        choices = getattr(info.annotation, "__args__", ())
        kind = ", ".join(f"`{choice}`" for choice in choices) if choices else "true, false"
        text = (info.description or "").replace("|", "\\|")
        unit = UNIT.search(text)
        default = str(info.default).lower() if isinstance(info.default, bool) else f"{info.default}"
        live = "; live" if info.json_schema_extra else ""
        lines.append(
            f"| `{name}` | {default} | {low + high or kind} | {unit.group(1) if unit else '-'} | "
            f"{UNIT.sub('', text)}{live} |"
        )
    return "\n".join(lines)


def reasons() -> str:
    """Every reason code with its cause and effect."""
    lines = ["| code | when | what happens |", "|---|---|---|"]
    lines += [f"| `{reason.value}` | {REASONS[reason][0]} | {REASONS[reason][1]} |" for reason in Reason]
    return "\n".join(lines)


def stops(measured: dict[str, Any]) -> str:
    """The fault matrix."""
    from benchmarks.fault_matrix import table

    machine, rows = measured["machine"], measured["stops"]
    times = max((row["n"] for row in rows.values() if "n" in row), default=0)
    text = (
        f"{time.strftime('%Y-%m-%d')}, {machine['cores']} cores with a load of {machine['load_before']:.1f} from other "
        f"work, `benchmarks/fault_matrix.py --times {times}`:\n\n{table(rows)}"
    )
    if "clean" in rows:
        clean = rows["clean"]
        text += (
            f"\n\nClean running beside it, {clean['seconds']:g} s: {clean['false_stops']} false stops, "
            f"{clean['false_holds']} false holds."
        )
    return text


def filtered(measured: dict[str, Any]) -> str:
    """Tick time, jitter and the hostile run."""
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {measured['cores']} cores with a load of {measured['load']:.1f} from other "
        "work, `./rlfp bench safety`:",
        "",
    ]
    for name, what in (("tick_us", "A tick of the whole controller"), ("filter_us", "The filter in it")):
        tick = measured[name]
        lines.append(
            f"- {what}: p50 {tick['p50']:.0f} us, p99 {tick['p99']:.0f} us, p99.9 {tick['p999']:.0f} us, max "
            f"{tick['max']:.0f} us, n {tick['n']}."
        )
    for name, beside in (("jitter_ms", ""), ("jitter_loaded_ms", " beside a busy process for each core")):
        if name in measured:
            jitter = measured[name]
            lines.append(
                f"- Period of the node at 240 Hz{beside}, off by: p50 {jitter['p50']:.3f} ms, p99 "
                f"{jitter['p99']:.3f} ms, max {jitter['max']:.1f} ms, n {jitter['n']}."
            )
    for name, row in measured["adversarial"].items():
        lines.append(
            f"- Hostile inputs on {name}: {row['ticks']:,} ticks, {row['violations']} violations, "
            f"{row['nonfinite']} not finite."
        )
    return "\n".join(lines)


def with_part(document: str, name: str, text: str) -> str:
    """`document` with what stands between the marks of `name` replaced."""
    begin, end = f"<!-- {name}: written by benchmarks/safety_document.py -->", f"<!-- end of {name} -->"
    before, mark, rest = document.partition(begin)
    _, closing, after = rest.partition(end)
    if not (mark and closing):
        raise ValueError(f"{DOCUMENT}: the marks of {name!r} are missing")
    return f"{before}{begin}\n{text}\n{end}{after}"


def rendered(document: str) -> str:
    """The document with the parts that follow from the code alone."""
    return with_part(with_part(document, "parameters", parameters()), "reasons", reasons())


def main(arguments: list[str] | None = None) -> int:
    """Write the document; with --check compare."""
    parser = argparse.ArgumentParser(prog="rlfp bench safety_document", description=__doc__.splitlines()[0])
    parser.add_argument("--stops", type=Path)
    parser.add_argument("--safety", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    before = DOCUMENT.read_text(encoding="utf-8")
    after = rendered(before)
    if options.stops:
        after = with_part(after, "stops", stops(json.loads(options.stops.read_text())))
    if options.safety:
        after = with_part(after, "filter", filtered(json.loads(options.safety.read_text())))
    if options.check:
        return int(after != before)
    write_whole(DOCUMENT, after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
