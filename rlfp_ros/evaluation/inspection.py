"""`rlfp inspect`: makes every check of a bundle that a node makes, and prints its contract."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from rlfp_ros.contract import FILES, TRUST_FILE, Bundle, Contract, load_bundle
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.trained_arm import trained_arm
from rlfp_ros.perception.encoder import Perception


def inspect_bundle(name_or_path: str, console: Console | None = None) -> Bundle:
    """Check a bundle (schema, sha256, ONNX Runtime loads it, golden frames repeat) and describe it.

    Raises
    ------
    ConfigurationError
        If a node would refuse the bundle; nothing is printed then.
    """
    console = console or Console(highlight=False)
    bundle = load_bundle(name_or_path)
    started = time.perf_counter()
    Perception(bundle)
    Policy(bundle, trained_arm(bundle))
    elapsed = time.perf_counter() - started

    contract = bundle.contract
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _rows(contract):
        table.add_row(label, text)
    for file in (*FILES, *([TRUST_FILE] if contract.trust else [])):
        table.add_row(
            file, f"{bundle.file(file).stat().st_size / 1000:,.1f} kB, sha256 {contract.files[file][:12]} matches"
        )
    console.print(f"[bold]{contract.name}[/] in {bundle.directory}")
    console.print(table)
    console.print(f"[green]ok[/]: perception and policy repeat training's golden frames ({1000 * elapsed:.0f} ms)")
    return bundle


def _rows(contract: Contract) -> Iterable[tuple[str, str]]:
    arm, camera, image, action = contract.arm, contract.camera, contract.image, contract.action
    yield "task", f"{contract.task}, goal: {contract.goal}"
    yield "arm", f"{arm.name}, {len(arm.joint_names)} joints, {arm.base_frame} to {arm.tool_frame}"
    k = camera.intrinsics
    yield "camera", f"{camera.width}x{camera.height} px at {camera.rate_hz:g} Hz"
    yield "  intrinsics", f"fx {k.fx:.1f}, fy {k.fy:.1f}, cx {k.cx:.1f}, cy {k.cy:.1f} px"
    xyz = ", ".join(f"{value:.3f}" for value in camera.T_base_camera.xyz)
    yield "  place", f"({xyz}) m in the base frame"
    yield "  tolerance", f"{camera.tolerance.xyz_m:g} m, {camera.tolerance.angle_rad:g} rad"
    yield "image", f"{image.colour_order} {image.dtype}, stack {image.stack}, resize {image.resize}"
    for side, shapes in (("takes", contract.encoder.inputs), ("gives", contract.encoder.outputs)):
        yield f"encoder {side}", ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    published = ["feature points" if contract.encoder.finds_points else "a latent vector", "the domain shift"]
    if contract.encoder.finds_object:
        published.insert(1, "the object's pose")
    yield "perception gives", ", ".join(published)
    judged = "by how unlike training an image looks"
    if contract.trust is not None:
        judged = f"by image and joints: is the object seen more than {1e3 * contract.trust.error_m:g} mm off?"
    yield "domain shift", judged
    taken = f"{', '.join(contract.policy.inputs)}; {contract.policy.feature_stack} feature frames"
    if contract.policy.past_actions:
        taken += f", {contract.policy.past_actions} past actions"
    yield "policy takes", taken
    if action.images_per_decision > 1:
        yield "decides", f"at {action.decision_rate_hz:g} Hz; publishes the action again at {action.rate_hz:g} Hz"
    yield "proprioception", ", ".join(contract.proprioception)
    ranges = []
    for component, scale, unit in zip(action.components, action.scale, action.units, strict=True):
        ranges.append(
            f"gripper 0 to {2 * scale:g} {unit}" if component == "gripper" else f"{component} ±{scale:g} {unit}"
        )
    yield "action", ", ".join(ranges)
    yield "base controller", contract.base_controller.name
    yield "latency", f"trained for camera {contract.latency.camera_s:g} s, command {contract.latency.command_s:g} s"
    for result in contract.evaluation:
        low, high = result.wilson95
        rate = f"{result.success_rate:.1%} of {result.episodes} episodes, 95 % interval {low:.1%} to {high:.1%}"
        yield f"{result.world} {result.profile}", rate
    for key in ("commit", "seed", "wall_minutes", "cores"):
        if key in contract.provenance:
            yield key.replace("_", " "), str(contract.provenance[key])
