"""Generated parts of the pages about safety: reason codes from the code, figures from docs/measured/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from page_tables import table

from rlfp_ros.control.safety.verdict import Reason

MEASURED = Path(__file__).resolve().parent / "measured"

HOLD = "HOLDING; ends by itself"
STOP = "STOPPED, latched"
GAIN = "residual gain 0; the base controller continues"
COUNTED = "counted only"
REASONS: dict[Reason, tuple[str, str]] = {
    Reason.NOT_ENABLED: ("`enable` has not been called", "DISABLED"),
    Reason.WAITING_FOR_JOINT_STATE: (
        "no two joint states that agree (`joint_jump_rad`, `joint_state_max_age_s`) since activation or the reset of "
        "the episode; a single one is not enough to start from",
        "HOLDING",
    ),
    Reason.WAITING_FOR_RESIDUAL: ("no residual has come yet", GAIN),
    Reason.WAITING_FOR_STEP: ("step mode, and the requested action is over", GAIN),
    Reason.HANDING_OVER: ("a person takes the arm over (`operator/jog`)", "gain and speed fall to 0 in `hold_ramp_s`"),
    Reason.JOG: (
        "a person moves the arm (`operator/jog`)",
        "the policy does not act, and neither does its base controller",
    ),
    Reason.WAITING_FOR_RESUME: (
        "a person has taken over, and no jog came for `jog_timeout_s`",
        "HOLDING until `enable`, or the next jog",
    ),
    Reason.JOG_BAD: ("a jog is not JSON, not finite, or beyond 1", COUNTED),
    Reason.JOG_NOT_ENABLED: ("a jog came while the arm was not enabled", COUNTED),
    Reason.JOG_LEASE: ("no fresh heartbeats with the lease of the jog come", COUNTED),
    Reason.JOG_OLD: ("a jog is older than `jog_max_age_s`, or has the stamp of the one before", COUNTED),
    Reason.JOG_FUTURE: ("a jog is stamped more than `future_tolerance_s` ahead", COUNTED),
    Reason.INPUT_LATE: (
        "joint states, percepts or heartbeat are older than half of the age that stops or holds the arm",
        "slower, and the gain falls",
    ),
    Reason.RESIDUAL_STALE: ("no residual for `residual_timeout_s`; the gain falls from `residual_fade_s`", GAIN),
    Reason.RESIDUAL_OLD: ("the residual's image is older than `residual_max_age_s`", GAIN),
    Reason.RESIDUAL_FUTURE: ("the residual is stamped more than `future_tolerance_s` ahead", GAIN),
    Reason.RESIDUAL_REPEATED: (
        "the residual has the stamp of the one before, or an earlier one",
        f"{COUNTED}; `residual_stale` if it continues",
    ),
    Reason.RESIDUAL_NOT_FINITE: ("the residual is NaN or infinite", GAIN),
    Reason.RESIDUAL_SHAPE: (
        "the residual does not have one value per axis (six, or the arm's joints), or is in another frame",
        GAIN,
    ),
    Reason.RESIDUAL_RANGE: ("the residual exceeds `residual_range` times the bundle's scale: wrong units", GAIN),
    Reason.RESIDUAL_JUMP: ("the residual changes by more than `residual_jump` times the bundle's scale", GAIN),
    Reason.RESIDUAL_GAP: ("stamps are more than `residual_gap_s` apart: residuals or images were lost", COUNTED),
    Reason.PERCEPT_STALE: ("no new object pose (or domain shift) for `percept_timeout_s`", HOLD),
    Reason.PERCEPT_OLD: ("the image of the object pose is older than `percept_max_age_s`", HOLD),
    Reason.PERCEPT_BAD: (
        "object pose or domain shift are not finite, farther than 100 m away, or stamped ahead of time",
        HOLD,
    ),
    Reason.PERCEPT_REPEATED: (
        "the object pose has the stamp of the one before",
        f"{COUNTED}; `percept_stale` if it continues",
    ),
    Reason.DOMAIN_SHIFT: (
        "the domain shift is above `shift_hold` for `shift_time_s`; the gain falls from `shift_slow`",
        HOLD,
    ),
    Reason.JOINT_STATE_STALE: ("no joint state received for `joint_state_timeout_s`", STOP),
    Reason.JOINT_STATE_OLD: ("the stamp of the joint state is older than `joint_state_max_age_s`", STOP),
    Reason.JOINT_STATE_FUTURE: (
        "the joint state is stamped more than `future_tolerance_s` ahead",
        f"{COUNTED}; `joint_state_stale` if it continues",
    ),
    Reason.JOINT_STATE_REPEATED: (
        "the joint state has the stamp of the one before, or an earlier one",
        f"{COUNTED}; `joint_state_stale` if it continues",
    ),
    Reason.JOINT_STATE_MISSING: (
        "a message lacks some of the arm's joints",
        f"{COUNTED}; `joint_state_stale` if no other message comes",
    ),
    Reason.JOINT_STATE_NOT_FINITE: ("a position or velocity is NaN or infinite", STOP),
    Reason.JOINT_STATE_JUMP: ("a step larger than the joint's speed and `joint_jump_rad` explain", STOP),
    Reason.JOINT_STATE_FROZEN: ("identical for `joint_frozen_s` although the commands move the arm", STOP),
    Reason.TRACKING_ERROR: (
        "`tracking_error_rad` away from every command of the last `tracking_window_s`, three times",
        STOP,
    ),
    Reason.EFFORT: ("beyond the arm's effort limit for `effort_time_s`", STOP),
    Reason.CLOCK_JUMP: (
        "ticks are `clock_jump_s` apart, a clock went back, or /clock stood still for that long",
        STOP,
    ),
    Reason.HEARTBEAT_LOST: ("`require_heartbeat` is set, and no heartbeat came for `heartbeat_timeout_s`", STOP),
    Reason.ADDITIONAL_PUBLISHER: (
        "another node than at `enable` publishes residuals, heartbeats, joint states or commands; `detail` in "
        "`safety/state` names node and topic",
        STOP,
    ),
    Reason.ESTOP: ("`safety/estop` or the service", f"{STOP}, even after the reset of an episode"),
    Reason.INTERNAL_ERROR: ("an exception in the controller; the stop that was sent last continues", STOP),
}


def reason_codes() -> str:
    """Every reason code with its cause and effect."""
    rows = ((f"`{reason.value}`", *REASONS[reason]) for reason in Reason)
    return table(("code", "cause", "effect"), rows)


def measured(name: str) -> dict[str, Any]:
    """A file of docs/measured/."""
    document: dict[str, Any] = json.loads((MEASURED / name).read_text(encoding="utf-8"))
    return document


def safety_stops() -> str:
    """Every run of the fault matrix that is kept, newest first."""
    files = sorted(MEASURED.glob("fault_matrix*.json"))
    documents = sorted((measured(file.name) for file in files), key=lambda one: str(one["date"]), reverse=True)
    return "\n\n".join(_stops(document) for document in documents)


def _stops(document: dict[str, Any]) -> str:
    from benchmarks.fault_matrix import table as matrix

    machine, rows = document["machine"], document["stops"]
    text = (
        f"Release {document['version']}, {document['date']}, {machine['cores']} cores with a load of "
        f"{machine['load_before']:.1f} from other work, `{document['command']}`{_note(document)}:\n\n{matrix(rows)}"
    )
    if "clean" in rows:
        clean = rows["clean"]
        text += (
            f"\n\nIn {clean['seconds']:g} s without faults there were {clean['false_stops']} false stops and "
            f"{clean['false_holds']} false holds."
        )
    return text


def _note(document: dict[str, Any]) -> str:
    return f" ({document['note']})" if "note" in document else ""


def safety_filter() -> str:
    """Every measurement of the filter that is kept, newest first."""
    files = sorted(MEASURED.glob("safety*.json"))
    documents = sorted((measured(file.name) for file in files), key=lambda one: str(one["date"]), reverse=True)
    return "\n\n".join(_filter(document) for document in documents)


def _filter(document: dict[str, Any]) -> str:
    lines = [
        f"Release {document['version']}, {document['date']}, {document['cores']} cores with a load of "
        f"{document['load']:.1f} from other work, `{document['command']}`{_note(document)}:",
        "",
    ]
    for name, what in (("tick_us", "A tick of the whole controller"), ("filter_us", "The filter's share of a tick")):
        tick = document[name]
        lines.append(
            f"- {what}: p50 {tick['p50']:.0f} us, p99 {tick['p99']:.0f} us, p99.9 {tick['p999']:.0f} us, "
            + (f"p99.99 {tick['p9999']:.0f} us, " if "p9999" in tick else "")
            + f"max {tick['max']:.0f} us, n {tick['n']:,.0f}."
        )
    if "slow_ticks" in document:
        causes = dict(document["slow_ticks"])
        found = ", ".join(f"{cause} {count}" for cause, count in causes.items() if cause != "ticks" and count)
        lines.append(f"- Ticks longer than 1 ms: {causes['ticks']}; what happened in them: {found or 'nothing'}.")
    for name, beside in (("jitter_ms", ""), ("jitter_loaded_ms", " beside a busy process for each core")):
        if name in document:
            jitter = document[name]
            lines.append(
                f"- Deviation of the node's period at 240 Hz{beside}: p50 {jitter['p50']:.3f} ms, p99 "
                f"{jitter['p99']:.3f} ms, max {jitter['max']:.1f} ms, n {jitter['n']:,.0f}."
            )
    for name, row in document["adversarial"].items():
        lines.append(
            f"- Hostile inputs on `{name}`: {row['ticks']:,} ticks, {row['violations']} violations, "
            f"{row['nonfinite']} not finite."
        )
    return "\n".join(lines)
