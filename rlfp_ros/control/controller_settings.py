"""Every threshold of the residual controller, with unit, range and reason; the node declares them as parameters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rlfp_ros.schema import Schema


class ControllerSettings(Schema):
    """Settings of `ResidualController`. Names end in their unit; a `scale` is a share of a published limit."""

    # Execution
    control_rate_hz: float = Field(default=240.0, ge=50, le=1000, description="ticks per second (Hz)")
    tick_on: Literal["timer", "joint_states"] = Field(
        default="timer", description="timer: steady clock, for arms; joint_states: one tick per message, for lock step"
    )
    output: Literal["joint_trajectory", "forward_position", "forward_velocity"] = Field(
        default="joint_trajectory",
        description="what the arm's controller takes; only joint_trajectory stops by itself when this node dies",
    )
    start_enabled: bool = Field(default=False, description="become ACTIVE without `enable`; for simulation only")
    dry_run: bool = Field(default=False, description="compute and report everything, but send nothing to the arm")
    step_by_step: bool = Field(
        default=False, description="once enabled, the policy acts once per `step`; with false it acts continuously"
    )
    episode_reset_clears_stop: bool = Field(
        default=False, description="a new episode clears a latched stop (never an e-stop); for simulation only"
    )
    base_controller: str = Field(
        default="",
        description="base controller that moves the arm alone, with gain 0; empty: the bundle's, with the policy",
    )
    base_parameters: str = Field(
        default="", description="its parameters, such as {duration_s: 30, amplitude_rad: 0.1}; empty: their defaults"
    )

    # Motion: shares of the published limits that a policy may use, which leave room for a harder stop
    settle_s: float = Field(
        default=0.1,
        ge=0,
        le=2,
        description="time for which the arm stands still after activation, while the command settles (s)",
    )
    velocity_scale: float = Field(
        default=0.8, gt=0, le=0.95, description="share of the published joint velocity that is used (1)"
    )
    acceleration_scale: float = Field(
        default=0.35, gt=0, le=0.95, description="share of the published joint acceleration that is used (1)"
    )
    jerk_scale: float = Field(
        default=0.1, gt=0, le=0.95, description="share of the published joint jerk that is used (1)"
    )
    stop_acceleration_scale: float = Field(
        default=0.7, gt=0, le=0.95, description="share of the published joint acceleration that a stop uses (1)"
    )
    stop_jerk_scale: float = Field(
        default=0.5, gt=0, le=0.95, description="share of the published joint jerk that a stop uses (1)"
    )
    tool_speed_scale: float = Field(
        default=0.9, gt=0, le=0.95, description="share of the tool speeds in tool_limits that is used (1)"
    )
    position_margin_rad: float = Field(
        default=0.02, ge=0.002, le=0.5, description="distance kept from the joint position limits (rad)"
    )
    workspace_margin_m: float = Field(
        default=0.002, ge=0, le=0.1, description="distance kept from the walls of the workspace box (m)"
    )
    collision_margin_m: float = Field(
        default=0.02, ge=0, le=0.2, description="distance kept between the arm's own capsules (m)"
    )
    table_margin_m: float = Field(
        default=0.005, ge=0, le=0.2, description="distance kept between the arm's capsules and the table (m)"
    )
    obstacle_margin_m: float = Field(
        default=0.02,
        ge=0,
        le=0.2,
        description="distance kept between the arm's capsules and the arm file's obstacles (m)",
    )
    collision_influence_m: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="distance beyond the margin at which an approach begins to slow down (m)",
    )
    barrier_rate_hz: float = Field(
        default=4.0, gt=0, le=20, description="the speed towards a limit is at most this times the distance to it (1/s)"
    )
    singularity_threshold: float = Field(
        default=0.06,
        ge=0,
        le=0.5,
        description="smallest singular value of the weighted Jacobian below which the inverse kinematics is damped (m)",
    )
    singularity_damping: float = Field(
        default=0.06, ge=0, le=1, description="largest damping of the inverse kinematics (m)"
    )
    rotation_length_m: float = Field(
        default=0.3, gt=0, le=2, description="length that converts rad/s to m/s in the inverse kinematics (m)"
    )
    posture_rate_hz: float = Field(
        default=1.0, ge=0, le=10, description="rate at which the spare joints return to home (1/s)"
    )
    posture_speed_rad_s: float = Field(
        default=0.3, ge=0, le=2, description="highest joint speed of that return (rad/s)"
    )

    # Residual
    residual_gain: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the policy's residual that is applied (1); can be changed live, the gain follows slowly",
        json_schema_extra={"live": True},
    )
    gain_ramp_s: float = Field(
        default=0.25,
        ge=0.01,
        le=10,
        description="time in which the gain rises from 0 to 1 after activation or a fault (s)",
    )
    gain_fall_s: float = Field(
        default=0.025, ge=0.005, le=0.1, description="time in which the gain falls from 1 to 0 after trust is lost (s)"
    )
    residual_fade_s: float = Field(
        default=0.075,
        gt=0,
        le=5,
        description="age of the residual since receipt at which the gain begins to fall (s); over two camera periods",
    )
    residual_timeout_s: float = Field(
        default=0.1, gt=0, le=5, description="age of the residual since receipt at which the gain is 0 (s)"
    )
    residual_max_age_s: float = Field(
        default=0.4, gt=0, le=5, description="highest accepted age of a residual by its image's stamp (s)"
    )
    future_tolerance_s: float = Field(default=0.02, ge=0, le=1, description="how far a stamp may lie in the future (s)")
    residual_range: float = Field(
        default=1.5,
        ge=1,
        le=10,
        description="a residual beyond the bundle's scale is clipped, beyond this times the scale it is refused (1)",
    )
    residual_jump: float = Field(
        default=2.5,
        gt=0,
        le=20,
        description="a change between residuals of more than this times the scale is refused (1); a full swing is 2",
    )

    residual_gap_s: float = Field(
        default=0.05,
        gt=0,
        le=5,
        description="distance between the stamps of two residuals from which on it counts as a gap (s)",
    )

    # Perception
    percept_timeout_s: float = Field(
        default=0.15,
        gt=0,
        le=10,
        description="age of percepts (object pose, domain shift) at which the arm holds; it slows from half of it (s)",
    )
    percept_max_age_s: float = Field(
        default=0.5,
        gt=0,
        le=10,
        description="age of the object pose by image stamp at which the arm holds; it slows down from half of it (s)",
    )
    require_percepts: bool = Field(
        default=False, description="expect percepts from the start; otherwise only after the first one has come"
    )
    hold_ramp_s: float = Field(
        default=0.075,
        ge=0.01,
        le=5,
        description="shortest time in which the base controller goes from full speed to rest or back (s)",
    )
    shift_slow: float = Field(default=0.7, ge=0, le=1, description="domain shift at which the gain begins to fall (1)")
    shift_hold: float = Field(default=0.95, ge=0, le=1, description="domain shift at which the arm holds (1)")
    shift_time_s: float = Field(
        default=0.1,
        ge=0,
        le=5,
        description="the lowest domain shift of this time counts, so that a single odd image does nothing (s)",
    )

    # Robot
    joint_state_timeout_s: float = Field(
        default=0.1,
        gt=0,
        le=5,
        description="age of joint_states since receipt at which the arm stops; it slows down from half of it (s)",
    )
    joint_state_max_age_s: float = Field(
        default=0.2,
        gt=0,
        le=5,
        description="age of joint_states by stamp at which the arm stops; it slows down from half of it (s)",
    )
    joint_jump_rad: float = Field(
        default=0.1,
        gt=0,
        le=2,
        description="a measured step larger by this than the joint's speed explains stops the arm (rad)",
    )
    joint_frozen_s: float = Field(
        default=0.3,
        gt=0,
        le=5,
        description="identical measurements for this time, although motion is commanded, stop the arm (s)",
    )
    tracking_error_rad: float = Field(
        default=0.15,
        gt=0,
        le=2,
        description="a joint farther than this from every command in tracking_window_s stops the arm (rad)",
    )
    tracking_window_s: float = Field(
        default=0.1, gt=0, le=0.5, description="how far the arm may lag behind its commands (s)"
    )
    effort_time_s: float = Field(
        default=0.2, gt=0, le=5, description="how long an effort beyond the limit is tolerated (s)"
    )
    clock_jump_s: float = Field(default=0.25, gt=0, le=10, description="gap between two ticks that stops the arm (s)")

    # Operator
    require_heartbeat: bool = Field(default=False, description="stop the arm if operator/heartbeat is missing")
    heartbeat_timeout_s: float = Field(
        default=0.5,
        gt=0,
        le=10,
        description="age of the heartbeat since receipt at which the arm stops; it slows down from half of it (s)",
    )

    jog_scale: float = Field(
        default=0.25, gt=0, le=0.5, description="share of the tool speeds in tool_limits at which a person jogs (1)"
    )
    jog_timeout_s: float = Field(
        default=0.2,
        gt=0,
        le=0.5,
        description="age of operator/jog since receipt at which the arm rests; it slows down from half of it (s)",
    )
    jog_max_age_s: float = Field(
        default=0.3, gt=0, le=2, description="highest accepted age of operator/jog by its stamp (s)"
    )

    @model_validator(mode="after")
    def _consistent(self) -> ControllerSettings:
        for low, high in (
            ("residual_fade_s", "residual_timeout_s"),
            ("shift_slow", "shift_hold"),
            ("acceleration_scale", "stop_acceleration_scale"),
            ("jerk_scale", "stop_jerk_scale"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} is {getattr(self, low)}, expected at most {high} ({getattr(self, high)})")
        if self.output != "joint_trajectory" and self.tick_on != "timer":
            raise ValueError(
                f"tick_on is joint_states, expected timer because output is {self.output}: ticks would end with "
                "the joint states, and the arm would continue with its last command"
            )
        return self
