"""Networks for export: PyTorch modules, their ONNX files, and both as functions."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from rlfp_ros.contract import onnx_session
from rlfp_ros.learning.algorithms.networks import policy_step
from rlfp_ros.learning.encoders.encoder import Encoder
from rlfp_ros.learning.encoders.exported import ExportedEncoder
from rlfp_ros.learning.encoders.novelty import Novelty
from rlfp_ros.learning.export.build import ENCODER_OUTPUTS, POLICY_OUTPUTS

Arrays = dict[str, np.ndarray]


class ExportedPolicy(nn.Module):
    """A policy with the inputs and outputs that a bundle declares.

    Parameters
    ----------
    policy
        As `algorithm.Train` returns it; its observations are one vector, which begins with the features.
    """

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute action [1, A] in [-1, 1] and next_state [1, S].

        Parameters
        ----------
        *inputs
            As `policy_inputs` lists them: features [1, stack, K, 3] or [1, stack, Z], proprioception [1, P],
            goal [1, 3], goal_mask [1, 1], past_actions [1, N, A] if there are any, and state [1, S].
        """
        vector = torch.cat([value.flatten(1) for value in inputs[:-1]], dim=-1)
        action, next_state = policy_step(self.policy, {"vector": vector}, inputs[-1])
        return action.float(), next_state


class PixelEncoder(nn.Module):
    """An encoder that was trained together with its policy, from pixels: a latent, and no object pose.

    Parameters
    ----------
    encoder
        Computes the latent [1, Z] of an image uint8 [1, H, W, 3]; all normalisation is inside it.
    embedding
        Computes the embedding [1, E] for the domain shift from the latent; None: the latent itself.
    """

    def __init__(self, encoder: nn.Module, embedding: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding = embedding if embedding is not None else nn.Identity()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features [1, Z] and embedding [1, E] of an image uint8 [1, H, W, 3]."""
        latent = self.encoder(image)
        return latent, self.embedding(latent) * 1.0


@dataclass(frozen=True)
class Networks:
    """Encoder and policy as functions of the inputs that a bundle declares, batch 1, outputs in the declared order."""

    encode: Callable[[Arrays], tuple[np.ndarray, ...]]
    act: Callable[[Arrays], tuple[np.ndarray, ...]]


def deployed_encoder(encoder: Encoder, novelty: Novelty | None = None) -> nn.Module:
    """Return the module that is exported as `encoder.onnx`."""
    contiguous = encoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return ExportedEncoder(contiguous, novelty).eval()


def export_encoder(encoder: Encoder, image: np.ndarray) -> bytes:
    """Export an encoder to ONNX for training to play with; `image` uint8 [H, W, 3] is an example."""
    return onnx_of(deployed_encoder(encoder), {"image": torch.from_numpy(image[None].copy())}, ENCODER_OUTPUTS)


def onnx_of(module: Any, inputs: dict[str, Tensor], outputs: tuple[str, ...]) -> bytes:
    """Export a module or a `torch.export` program to ONNX, with the fixed shapes of the example `inputs`."""
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing, which is not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamo=True,
            verbose=False,
            optimize=True,
        )
    assert program is not None
    program.save(buffer)  # type: ignore[arg-type]  # any file object works
    return without_traces(buffer.getvalue())


def without_traces(model_file: bytes) -> bytes:
    """Remove the exporter's stack traces from an ONNX file: they hold this machine's paths and triple its size."""
    model = onnx.load_from_string(model_file)
    model.doc_string = ""
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    return bytes(model.SerializeToString())


def program_to_onnx(program: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> bytes:
    """Export a `torch.export` program to ONNX with named inputs and outputs."""
    examples = program.example_inputs[0]
    return onnx_of(program, dict(zip(inputs, examples, strict=True)), outputs)


def in_pytorch(program: Any) -> Callable[[Arrays], tuple[np.ndarray, ...]]:
    """Return a `torch.export` program as a function of arrays."""
    module = program.module()

    def run(inputs: Arrays) -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            return tuple(output.numpy() for output in module(*(torch.from_numpy(value) for value in inputs.values())))

    return run


def in_onnx_runtime(file: bytes, outputs: tuple[str, ...]) -> Callable[[Arrays], tuple[np.ndarray, ...]]:
    """Return an ONNX file as a function of arrays."""
    session = onnx_session(file)
    return lambda inputs: tuple(session.run(outputs, inputs))


def deployed(files: dict[str, bytes]) -> Networks:
    """Return a bundle's two ONNX files as functions."""
    found = [value.name for value in onnx_session(files["encoder.onnx"]).get_outputs()]
    outputs = tuple(name for name in ENCODER_OUTPUTS if name in found)
    return Networks(
        in_onnx_runtime(files["encoder.onnx"], outputs), in_onnx_runtime(files["policy.onnx"], POLICY_OUTPUTS)
    )
