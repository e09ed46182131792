"""The reasons of the safety controller in words, and what an operator does about each of them."""

from __future__ import annotations

from typing import NamedTuple

from rlfp_ros.control.safety.verdict import Reason, State


class Words(NamedTuple):
    """What a reason means, and what to do; `remedy` is empty if there is nothing to do."""

    meaning: str
    remedy: str = ""


_POLICY = "The base controller continues without the policy. Check the policy node's log."
_CAMERA = "The arm continues by itself when the camera and perception are back."
_JOINTS = "Check the arm's driver and its connection, then press Reset."
_COUNTED = "Only counted: the arm continues."

REASONS: dict[Reason, Words] = {
    Reason.NOT_ENABLED: Words("Waiting for Enable.", "Press Enable when the checklist is green and the cell is clear."),
    Reason.WAITING_FOR_JOINT_STATE: Words(
        "The controller waits for the arm's joint positions.", "It starts by itself."
    ),
    Reason.WAITING_FOR_RESIDUAL: Words("The policy has not sent anything yet.", "It starts by itself."),
    Reason.WAITING_FOR_STEP: Words(
        "The policy waits for the next step.", "Press Step, or Enable for continuous motion."
    ),
    Reason.HANDING_OVER: Words("A person takes the arm over: the policy fades first."),
    Reason.JOG: Words("A person moves the arm; the policy does not act."),
    Reason.WAITING_FOR_RESUME: Words(
        "A person has the arm, and nothing moves it.", "Press Resume to let the policy act again, or continue to jog."
    ),
    Reason.JOG_BAD: Words("A jog message was not valid.", _COUNTED),
    Reason.JOG_NOT_ENABLED: Words("A jog came while the arm was not enabled.", _COUNTED),
    Reason.JOG_LEASE: Words("A jog came from a page that does not operate.", _COUNTED),
    Reason.JOG_OLD: Words("A jog came too late, or twice.", "Synchronise the clocks of page server and controller."),
    Reason.JOG_FUTURE: Words("A jog carried a time in the future.", "Synchronise the clocks."),
    Reason.INPUT_LATE: Words("Joint states, images or the heartbeat come late, so the arm slows down."),
    Reason.RESIDUAL_STALE: Words("The policy is silent.", _POLICY),
    Reason.RESIDUAL_OLD: Words("The policy acts on an image that is too old.", _POLICY),
    Reason.RESIDUAL_FUTURE: Words("The policy's messages carry a time in the future.", "Synchronise the clocks."),
    Reason.RESIDUAL_REPEATED: Words("The policy repeats a message.", _POLICY),
    Reason.RESIDUAL_NOT_FINITE: Words("The policy sent something that is not a number.", _POLICY),
    Reason.RESIDUAL_SHAPE: Words(
        "The policy's message has the wrong size or frame.", "Give policy and controller the same bundle."
    ),
    Reason.RESIDUAL_RANGE: Words(
        "The policy asked for more than it can in training.", "Check its units, and use the same bundle everywhere."
    ),
    Reason.RESIDUAL_JUMP: Words("The policy's motion jumped.", _POLICY),
    Reason.RESIDUAL_GAP: Words("Messages of the policy were lost.", _COUNTED),
    Reason.PERCEPT_STALE: Words("No new image has been perceived.", _CAMERA),
    Reason.PERCEPT_OLD: Words("The perceived image is too old.", _CAMERA),
    Reason.PERCEPT_BAD: Words("Perception sent something that is not possible.", _CAMERA),
    Reason.PERCEPT_REPEATED: Words("Perception repeats an image.", _COUNTED),
    Reason.DOMAIN_SHIFT: Words(
        "The image does not look like those of the training.", "Remove what is new in the image, or correct the light."
    ),
    Reason.JOINT_STATE_STALE: Words("The arm's joint states stopped coming.", _JOINTS),
    Reason.JOINT_STATE_OLD: Words("The arm's joint states are too old.", "Synchronise the clocks, then press Reset."),
    Reason.JOINT_STATE_FUTURE: Words("The arm's joint states carry a time in the future.", "Synchronise the clocks."),
    Reason.JOINT_STATE_REPEATED: Words("The arm's joint states repeat.", _COUNTED),
    Reason.JOINT_STATE_MISSING: Words("A message lacks some of the arm's joints.", _COUNTED),
    Reason.JOINT_STATE_NOT_FINITE: Words("A joint state is not a number.", _JOINTS),
    Reason.JOINT_STATE_JUMP: Words("A joint jumped further than it can move.", _JOINTS),
    Reason.JOINT_STATE_FROZEN: Words("The joint states do not change although the arm is told to move.", _JOINTS),
    Reason.TRACKING_ERROR: Words(
        "The arm does not follow its commands.",
        "Check for a collision, brakes and the arm's own stop, then press Reset.",
    ),
    Reason.EFFORT: Words("A joint's effort was too high.", "Check for a collision, then press Reset."),
    Reason.CLOCK_JUMP: Words("The clock jumped, or this computer paused.", "Press Reset."),
    Reason.HEARTBEAT_LOST: Words(
        "The operator's heartbeat was lost: the page was closed, hidden or disconnected.",
        "Keep this page visible, then press Reset.",
    ),
    Reason.ADDITIONAL_PUBLISHER: Words(
        "Another node began to send what moves the arm.", "End that node, then press Reset."
    ),
    Reason.ESTOP: Words("STOP was pressed.", "Press Reset when the cell is clear."),
    Reason.INTERNAL_ERROR: Words(
        "The controller had an internal error.", "Read the controller's log before you reset."
    ),
}

STATES: dict[State, str] = {
    State.DISABLED: "Nothing is sent to the arm.",
    State.ACTIVE: "The arm may move.",
    State.HOLDING: "The arm holds still.",
    State.STOPPED: "The arm was stopped and stays so until Reset.",
}


def in_words(code: str, detail: str = "") -> Words:
    """Return the words for a reason code; an unknown code stands for itself. `detail` is that of safety/state."""
    words = REASONS[Reason(code)] if code in Reason.__members__.values() else Words(code.replace("_", " "))
    if detail and code == Reason.ADDITIONAL_PUBLISHER:
        return words._replace(meaning=f"{words.meaning} {detail[0].upper()}{detail[1:]}.")
    return words
