"""Measures the latency of the node `camera`: from an image's stamp to its publication, and to its reception.

The node runs in a process of its own on real DDS. `file` plays a folder of images, which are decoded before they are
due. `uvc` captures from the fake V4L2 device of the tests, which delivers an image at the moment of its stamp, so that
its figures contain OpenCV's V4L2 backend and the decoding of the JPEG, but neither exposure nor USB. It needs a C
compiler.

    ./rlfp bench camera [--seconds S] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from rlfp_ros.cli.parsing import add_result, duration, parse_benchmark
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.graph import dds
from rlfp_ros.graph.domains import reserved_domain
from rlfp_ros.graph.node_process import child_environment
from rlfp_ros.recording import decode
from rlfp_ros.schema import ConfigurationError

sys.path.append(str(Path(__file__).resolve().parents[1] / "test"))

from webcam import Webcam

STARTED_S = 30.0  # longest wait for the first image
SETTLED_S = 2.0  # left out, while other participants join
SIZES = ((640, 480), (1280, 720))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench camera", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=duration, default=20.0, help="of each row")
    add_result(parser, "--json")
    options = parse_benchmark(parser, argv)
    rows, load = [], os.getloadavg()[0]
    for camera in ("file", "uvc"):
        for width, height in SIZES:
            rows.append(measure(camera, width, height, options.seconds))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if options.json:
        machine = f"{os.cpu_count()} cores, load {load:.1f}"
        write_json(options.json, {"date": date.today().isoformat(), "machine": machine, "rows": rows})
    return 0


def measure(camera: str, width: int, height: int, seconds: float) -> dict[str, Any]:
    """Return one row: how many images came, and percentiles of both latencies, ms."""
    with tempfile.TemporaryDirectory() as folder, reserved_domain() as domain:
        environment = dds.environment("local", str(domain), large_images=True)
        source, settings, variables = _source(camera, width, height, Path(folder))
        parameters = {"camera": camera, "source": source, "settings": settings}
        file = Path(folder) / "camera.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "rlfp_ros.nodes.camera", "--ros-args", "--params-file", str(file)]
        os.environ |= environment
        process = subprocess.Popen(
            command, env=child_environment(environment | variables), stderr=subprocess.PIPE, text=True
        )
        try:
            latencies = _listen(process, seconds)
        finally:
            process.terminate()
            process.communicate()
    published, received = 1e-6 * np.array(latencies).reshape(-1, 2).T
    return {
        "camera": camera,
        "size": f"{width}x{height}",
        "images": len(published),
        **{f"published_ms_p{share}": round(float(np.percentile(published, share)), 2) for share in (50, 99)},
        **{f"received_ms_p{share}": round(float(np.percentile(received, share)), 2) for share in (50, 99)},
    }


def _source(camera: str, width: int, height: int, folder: Path) -> tuple[str, str, dict[str, str]]:
    """Return source, settings and environment variables of a camera that shows noise over a gradient."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, :, None] + rng.normal(0, 8, (height, width, 3))
    image = np.clip(ramp, 0, 255).astype(np.uint8)
    if camera == "file":
        for number in range(10):
            cv2.imwrite(str(folder / f"{number}.png"), image)
        return str(folder), "{loop: true, rate_hz: 30}", {}
    (folder / "webcam").mkdir()
    webcam = Webcam(folder / "webcam")
    cv2.imwrite(webcam.variables["FAKE_V4L2_JPEG"], image)
    return str(webcam.path), f"{{width: {width}, height: {height}}}", webcam.variables | {"FAKE_V4L2_DELAY_US": "0"}


def _listen(process: subprocess.Popen[str], seconds: float) -> list[tuple[int, int]]:
    """Return ns from stamp to publication and to reception, for each image of that time."""
    import rclpy
    from rclpy.context import Context
    from rclpy.node import Node

    from rlfp_ros.nodes import messages as m
    from rlfp_ros.nodes.executor import NodeExecutor

    latencies: list[tuple[int, int]] = []
    began = ends = 0.0

    def on_image(data: bytes, info: dict[str, int]) -> None:
        nonlocal began, ends
        if not began:
            began, ends = time.monotonic(), time.monotonic() + SETTLED_S + seconds
        if time.monotonic() - began > SETTLED_S:
            stamp = decode.serialised_stamp_ns(data)
            latencies.append((info["source_timestamp"] - stamp, info["received_timestamp"] - stamp))

    context = Context()
    rclpy.init(context=context)
    node = Node("listener", context=context)
    node.create_subscription(m.IMAGE.type, m.IMAGE.name, on_image, m.CAMERA_SUBSCRIPTION, raw=True)
    executor, limit = NodeExecutor(node), time.monotonic() + STARTED_S
    try:
        while time.monotonic() < (ends or limit) and process.poll() is None:
            executor.spin_once()
    finally:
        executor.close()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    if not latencies:
        raise ConfigurationError("bench camera: no image came; run ./rlfp doctor")
    return latencies
