"""A driven arm before a simulated Feetech bus, in simulated time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from conftest import wait_until

from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.drivers.arm_driver import make_arm_driver
from rlfp_ros.drivers.driven_arm import DrivenArm, DrivenArmSettings
from rlfp_ros.drivers.servo_calibration import STEP_RAD
from rlfp_ros.drivers.simulated_feetech_bus import SimulatedFeetechBus

ROOT = Path(__file__).resolve().parents[1]
ARM = load_arm("so101")
NAMES = (*ARM.joint_names, "gripper")
STEP_S = 0.005  # of the servos' motion
FINEST = 1.01 * STEP_RAD  # rad


@contextmanager
def simulated_bus(folder: Path) -> Iterator[SimulatedFeetechBus]:
    """A bus at `folder`/port whose servos move by `advance` only; its calibration is in `folder`/arm.json."""
    (folder / "arm.json").write_bytes((ROOT / "sim" / "servos" / "so101.json").read_bytes())
    made = SimulatedFeetechBus(folder / "port", folder / "arm.json", moves_itself=False)
    made.start()
    try:
        yield made
    finally:
        made.close()


class Bench:
    """A driven arm before the simulated bus, in simulated time: each cycle is 10 ms long."""

    def __init__(self, bus: SimulatedFeetechBus, parameters: str = "{answer_s: 0.5}", **settings: Any) -> None:
        self.bus, self.now_ns, self.reports = bus, 1_000_000_000, list[str]()
        folder = bus.link.parent
        self.driver: Any = make_arm_driver("feetech", parameters, ARM, str(bus.link), str(folder / "arm.json"))
        self.arm = DrivenArm(self.driver, ARM, DrivenArmSettings(**settings), self.reports.append)

    def run(self, seconds: float) -> list[JointState]:
        """Run cycles and return the joint states that they give."""
        states = []
        for _ in range(round(seconds * 100)):
            state = self.arm.cycle(self.now_ns)
            states += [] if state is None else [state]
            for _ in range(2):
                self.bus.advance(STEP_S)
            self.now_ns += 10_000_000
        return states

    def begin(self) -> JointState:
        """Run until joint states come: on a busy machine a reading may be missed."""
        states: list[JointState] = []

        def come() -> bool:
            states.extend(self.run(0.02))
            return bool(states)

        wait_until(come, what="joint states")
        return states[-1]

    def move(self, by: float, seconds: float) -> np.ndarray:
        """Command all joints of the arm to move; return where to, [J] rad."""
        target = np.array(self.bus.angles()[:-1]) + by
        assert self.arm.accept(Trajectory.to_rest(self.now_ns, seconds, target), self.now_ns) == ""
        return target
