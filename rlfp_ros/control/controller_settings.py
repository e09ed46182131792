"""Every threshold of the residual controller, with unit, range and reason; the node declares them as parameters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rlfp_ros.schema import Schema


class ControllerSettings(Schema):
    """Settings of `ResidualController`. Names end in their unit; a `scale` is a share of a published limit."""

    # How it runs
    control_rate_hz: float = Field(default=240.0, ge=50, le=1000, description="ticks per second (Hz)")
    tick_on: Literal["timer", "joint_states"] = Field(
        default="timer", description="timer: steady clock, for arms; joint_states: one tick per message, for lock step"
    )
    output: Literal["joint_trajectory", "forward_position", "forward_velocity"] = Field(
        default="joint_trajectory",
        description="what the arm's controller takes; only joint_trajectory stops by itself when this node dies",
    )
    start_enabled: bool = Field(default=False, description="become ACTIVE without `enable`; for simulation only")
    dry_run: bool = Field(default=False, description="compute and report everything, send nothing to the arm")
    step_by_step: bool = Field(
        default=False, description="enabled, the policy acts once for each `step`; otherwise `enable` lets it continue"
    )
    episode_reset_clears_stop: bool = Field(
        default=False, description="a new episode clears a latched stop (never an e-stop); for simulation only"
    )

    # Motion, as fractions of the published limits: what a policy may use, with room for a harder stop
    settle_s: float = Field(
        default=0.1,
        ge=0,
        le=2,
        description="standing after activation: from what the arm was told to what it measures (s)",
    )
    velocity_scale: float = Field(default=0.8, gt=0, le=0.95, description="joint velocity in use, of the published (1)")
    acceleration_scale: float = Field(
        default=0.35, gt=0, le=0.95, description="acceleration in use, of the published (1)"
    )
    jerk_scale: float = Field(default=0.1, gt=0, le=0.95, description="joint jerk in use, of the published (1)")
    stop_acceleration_scale: float = Field(
        default=0.7, gt=0, le=0.95, description="deceleration of stops, of the published (1)"
    )
    stop_jerk_scale: float = Field(default=0.5, gt=0, le=0.95, description="jerk of a stop, of the published (1)")
    tool_speed_scale: float = Field(default=0.9, gt=0, le=0.95, description="tool speed in use, of tool_limits (1)")
    position_margin_rad: float = Field(
        default=0.02, ge=0.002, le=0.5, description="kept from the joint position limits (rad)"
    )
    workspace_margin_m: float = Field(
        default=0.002, ge=0, le=0.1, description="kept from the workspace box's walls (m)"
    )
    collision_margin_m: float = Field(default=0.02, ge=0, le=0.2, description="kept between the arm's own capsules (m)")
    table_margin_m: float = Field(
        default=0.005, ge=0, le=0.2, description="kept between the arm's capsules and the table (m)"
    )
    obstacle_margin_m: float = Field(
        default=0.02, ge=0, le=0.2, description="kept between the arm's capsules and the arm file's obstacles (m)"
    )
    collision_influence_m: float = Field(
        default=0.05, gt=0, le=0.5, description="distance beyond the margin at which closing slows down (m)"
    )
    barrier_rate_hz: float = Field(
        default=4.0, gt=0, le=20, description="speed towards any limit is at most this times the distance to it (1/s)"
    )
    singularity_threshold: float = Field(
        default=0.06,
        ge=0,
        le=0.5,
        description="smallest singular value of the weighted Jacobian where damping begins (m)",
    )
    singularity_damping: float = Field(
        default=0.06, ge=0, le=1, description="largest damping of the inverse kinematics (m)"
    )
    rotation_length_m: float = Field(
        default=0.3, gt=0, le=2, description="lever that makes rad/s and m/s comparable in the inverse kinematics (m)"
    )
    posture_rate_hz: float = Field(default=1.0, ge=0, le=10, description="pull of the spare joints towards home (1/s)")
    posture_speed_rad_s: float = Field(default=0.3, ge=0, le=2, description="speed of that pull at most (rad/s)")

    # Residual
    residual_gain: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the policy's residual that is applied (1); may change while it runs, slew-limited",
        json_schema_extra={"live": True},
    )
    gain_ramp_s: float = Field(
        default=0.25, ge=0.01, le=10, description="gain from 0 to 1 after activation or a fault (s)"
    )
    gain_fall_s: float = Field(default=0.025, ge=0.005, le=0.1, description="gain from 1 to 0 as trust is lost (s)")
    residual_fade_s: float = Field(
        default=0.075,
        gt=0,
        le=5,
        description="age by receipt at which the gain begins to fall (s); over two camera periods",
    )
    residual_timeout_s: float = Field(default=0.1, gt=0, le=5, description="age by receipt at which the gain is 0 (s)")
    residual_max_age_s: float = Field(
        default=0.4, gt=0, le=5, description="age by the image's stamp that is accepted (s)"
    )
    future_tolerance_s: float = Field(default=0.02, ge=0, le=1, description="how far ahead of us a stamp may be (s)")
    residual_range: float = Field(
        default=1.5,
        ge=1,
        le=10,
        description="residuals up to this times the bundle's scale are clipped, beyond refused (1)",
    )
    residual_jump: float = Field(
        default=2.5,
        gt=0,
        le=20,
        description="change between residuals beyond this times the scale is refused (1); 2 is from end to end",
    )

    residual_gap_s: float = Field(
        default=0.05, gt=0, le=5, description="stamps of residuals farther apart count as a gap in their sequence (s)"
    )

    # Perception
    percept_timeout_s: float = Field(
        default=0.15,
        gt=0,
        le=10,
        description="age of percepts (object pose, domain shift) that holds the arm; from half of it on it slows (s)",
    )
    percept_max_age_s: float = Field(
        default=0.5, gt=0, le=10, description="age of the object pose by its image's stamp that does the same (s)"
    )
    require_percepts: bool = Field(
        default=False, description="percepts are awaited from the start; otherwise only once one has come"
    )
    hold_ramp_s: float = Field(
        default=0.075, ge=0.01, le=5, description="base controller from full speed to rest and back, at least (s)"
    )
    shift_slow: float = Field(default=0.7, ge=0, le=1, description="domain shift at which the gain begins to fall (1)")
    shift_hold: float = Field(default=0.95, ge=0, le=1, description="domain shift at which the arm holds (1)")
    shift_time_s: float = Field(
        default=0.1,
        ge=0,
        le=5,
        description="how far back the lowest domain shift is sought that counts: a single odd image does nothing (s)",
    )

    # Robot
    joint_state_timeout_s: float = Field(
        default=0.1,
        gt=0,
        le=5,
        description="age of joint_states by receipt that stops; from half of it on the arm slows down (s)",
    )
    joint_state_max_age_s: float = Field(
        default=0.2,
        gt=0,
        le=5,
        description="age of joint_states by stamp that stops; from half of it on the arm slows down (s)",
    )
    joint_jump_rad: float = Field(
        default=0.1, gt=0, le=2, description="measured step beyond what the joint's speed explains, that stops (rad)"
    )
    joint_frozen_s: float = Field(
        default=0.3, gt=0, le=5, description="identical measurements although commanded to move, that stop (s)"
    )
    tracking_error_rad: float = Field(
        default=0.15, gt=0, le=2, description="distance of a joint from every command of the window, that stops (rad)"
    )
    tracking_window_s: float = Field(
        default=0.1, gt=0, le=0.5, description="how far the arm may lag behind its commands (s)"
    )
    effort_time_s: float = Field(
        default=0.2, gt=0, le=5, description="how long an effort beyond the limit is tolerated (s)"
    )
    clock_jump_s: float = Field(default=0.25, gt=0, le=10, description="gap between ticks that stops (s)")

    # Operator
    require_heartbeat: bool = Field(default=False, description="stop when operator/heartbeat is missing")
    heartbeat_timeout_s: float = Field(
        default=0.5,
        gt=0,
        le=10,
        description="age of the heartbeat by receipt that stops; from half of it on the arm slows down (s)",
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
                "the joint states, and the arm would continue with what it was told last"
            )
        return self
