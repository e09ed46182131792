"""From trained networks to a bundle: ONNX files, golden inputs and outputs, and the contract."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from rlfp_ros.learning.encoder import ExportedEncoder
from rlfp_ros.learning.objective import AnyEncoder
from rlfp_ros.learning.sac import Actor

ENCODER_OUTPUTS = ("features", "object_pose", "pose_cov", "embedding")
POLICY_INPUTS = ("features", "proprioception", "goal", "goal_mask", "state")
POLICY_OUTPUTS = ("action", "next_state")


class ExportedPolicy(nn.Module):
    """The actor's mean action, with the inputs and outputs that a bundle declares."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.actor = actor

    def forward(
        self, features: Tensor, proprioception: Tensor, goal: Tensor, goal_mask: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """action [1, A] in [-1, 1], next_state [1, S] of features [1, stack, K, 3] or [1, stack, Z] and the rest."""
        observation = torch.cat([features.flatten(1), proprioception, goal, goal_mask], dim=-1)
        mean, _, next_state = self.actor.step(observation, state)
        return torch.tanh(mean), next_state


def onnx_of(module: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...]) -> bytes:
    """A module as the bytes of an ONNX file with fixed shapes."""
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which we do not use
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            module.eval(), tuple(inputs.values()), input_names=list(inputs), output_names=list(outputs),
            dynamo=True, verbose=False, optimize=True,
        )  # fmt: skip
    assert program is not None
    program.save(buffer)  # type: ignore[arg-type]  # any file object works
    return without_traces(buffer.getvalue())


def without_traces(model_file: bytes) -> bytes:
    """An ONNX file without what the exporter notes about its making: stack traces with this machine's paths, twice the
    size of the network."""
    model = onnx.load_from_string(model_file)
    model.doc_string = ""
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    return bytes(model.SerializeToString())


def export_encoder(encoder: AnyEncoder, image: np.ndarray) -> bytes:
    """`encoder.onnx`; `image` uint8 [H, W, 3] is an example."""
    module = ExportedEncoder(encoder.to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
    return onnx_of(module, {"image": torch.from_numpy(image[None].copy())}, ENCODER_OUTPUTS)


def export_policy(actor: Actor, observation: dict[str, np.ndarray]) -> bytes:
    """`policy.onnx`; `observation` is an example from `control.policy.Observer`."""
    return onnx_of(ExportedPolicy(actor), _policy_inputs(observation, actor.state_size), POLICY_OUTPUTS)


def golden(encoder: AnyEncoder, actor: Actor, image: np.ndarray, observation: dict[str, np.ndarray]) -> bytes:
    """`golden.npz`: inputs and PyTorch's outputs, against which every machine checks its ONNX Runtime."""
    arrays: dict[str, Any] = {"encoder/image": image[None]}
    policy_inputs = _policy_inputs(observation, actor.state_size)
    arrays |= {f"policy/{name}": value.numpy() for name, value in policy_inputs.items()}
    with torch.no_grad():
        encoded = ExportedEncoder(encoder).eval()(torch.from_numpy(image[None].copy()))
        acted = ExportedPolicy(actor).eval()(*policy_inputs.values())
    arrays |= {f"encoder/{name}": value.numpy() for name, value in zip(ENCODER_OUTPUTS, encoded, strict=True)}
    arrays |= {f"policy/{name}": value.numpy() for name, value in zip(POLICY_OUTPUTS, acted, strict=True)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def encoder_shapes(encoder_file: Path) -> dict[str, dict[str, list[int]]]:
    """`encoder` part of a contract, read from the file itself."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(encoder_file), providers=["CPUExecutionProvider"])
    return {
        "inputs": {value.name: list(value.shape) for value in session.get_inputs()},
        "outputs": {value.name: list(value.shape) for value in session.get_outputs()},
    }


def _policy_inputs(observation: dict[str, np.ndarray], state_size: int) -> dict[str, Tensor]:
    inputs = {name: torch.from_numpy(observation[name][None].copy()) for name in POLICY_INPUTS if name != "state"}
    return inputs | {"state": torch.linspace(-0.5, 0.5, state_size)[None] if state_size > 1 else torch.zeros(1, 1)}
