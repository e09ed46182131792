"""The encoder of a bundle, ready to be trained: its heat maps, its layers by name, and the file that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from rlfp_ros.adaptation.onnx_network import OnnxNetwork, float_model
from rlfp_ros.contract import CameraContract, onnx_session
from rlfp_ros.learning.encoders.novelty import MOST, Novelty, describe
from rlfp_ros.learning.encoders.spatial import SpatialEncoder
from rlfp_ros.schema import ConfigurationError

PART = 64  # images that are encoded at a time
SAME_MARK = 0.02  # difference of a mark from the file's own that rounding explains
NOVELTY = "novelty."  # before the names of the mark's constants
STATISTICS = ("mean", "whitening", "centre", "scale")  # of the mark, and the layers of its network
LAYERS = tuple(f"network.{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias"))
COPIED = (*STATISTICS, *LAYERS)


class EncoderParts:
    """The values of an encoder's graph that adaptation needs, by their names.

    Parameters
    ----------
    model
        `encoder.onnx` of feature points, float or int8.

    Raises
    ------
    ConfigurationError
        If the encoder has no heat maps.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._producers = {name: node for node in model.graph.node for name in node.output}
        softmax = [node for node in model.graph.node if node.op_type == "LogSoftmax"]
        shuffles = [node for node in model.graph.node if node.op_type == "DepthToSpace"]
        if len(softmax) != 1 or len(shuffles) != 1:
            raise ConfigurationError(
                "encoder.onnx has no heat maps of points, which adaptation works on; adapt a bundle whose encoder is "
                "`spatial`, or train with recorded images in the randomisation instead"
            )
        self.log_weights = softmax[0].output[0]
        trunk = list(self._convolutions_before(shuffles[0].input[0]))[::-1]
        self.maps = trunk[-1].input[0]
        self.pixels = next(node.output[0] for node in model.graph.node if node.op_type == "Cast")
        # Names of the weights, the bias and the output of each, from the first to the one that makes the heat maps.
        self.convolutions = [(node.input[1], node.input[2], node.output[0]) for node in trunk]

    def _convolutions_before(self, name: str) -> Iterator[onnx.NodeProto]:
        """Yield the convolutions that lead to a value, the last one first; of a sum, those of the second term."""
        while name in self._producers:
            node = self._producers[name]
            if node.op_type == "Conv":
                yield node
            name = node.input[1 if node.op_type == "Add" else 0]


class AdaptableEncoder(nn.Module):
    """An encoder from `encoder.onnx` in PyTorch.

    Parameters
    ----------
    file
        Contents of `encoder.onnx`.
    camera
        The camera of its images.
    prepare
        Changes the model before it becomes a network, for example to insert a stage.
    """

    def __init__(
        self,
        file: bytes,
        camera: CameraContract,
        prepare: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda model: model,
    ) -> None:
        super().__init__()
        model = prepare(float_model(file))
        self.parts = EncoderParts(model)
        self.network = OnnxNetwork(model)
        self._cells = SpatialEncoder(camera)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features [B, K, 3] and log-weights [B, K, cells] of images [B, H, W, 3], 0 to 255."""
        features, log_weights = self.network(images, ("features", self.parts.log_weights))
        return features, log_weights

    def cell_weights(self, points: Tensor) -> Tensor:
        """Compute weights [B, P, cells] on the cells around points [B, P, 2] on the plane z = 1."""
        return self._cells.cell_weights(points)

    def train_weights(self, names: list[str]) -> list[nn.Parameter]:
        """Make these weights trainable, and no others, and return them."""
        for weight in self.network.weights.values():
            weight.requires_grad_(False)
        chosen = [self.network.weight(name) for name in names]
        for weight in chosen:
            weight.requires_grad_(True)
        return chosen

    def file(self) -> bytes:
        """Return the contents of `encoder.onnx` with the present weights."""
        return bytes(self.network.to_model().SerializeToString())


class DeployedEncoder:
    """An `encoder.onnx` in ONNX Runtime, with its feature maps and heat maps besides its outputs.

    Parameters
    ----------
    file
        Contents of `encoder.onnx`.
    """

    def __init__(self, file: bytes) -> None:
        model = onnx.load_from_string(file)
        parts = EncoderParts(model)
        outputs = {value.name for value in model.graph.output}
        self._names = ("features", "object_pose", "embedding", parts.maps, parts.log_weights)
        for name in self._names:
            if name not in outputs:
                model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        self._session = onnx_session(model.SerializeToString())

    def features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute features [N, K, 3], object positions [N, 3] m and marks [N] of images uint8 [N, H, W, 3]."""
        rows = [self._session.run(self._names[:3], {"image": image[None]}) for image in images]
        features, poses, marks = (np.concatenate(part) for part in zip(*rows, strict=True))
        return features, poses[:, :3], marks[:, 0]

    def heat(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        """Compute features [N, K, 3] and log-weights [N, K, cells] of images."""
        rows = [self._session.run(("features", self._names[4]), {"image": image[None]}) for image in images]
        features, log_weights = (torch.from_numpy(np.concatenate(part)) for part in zip(*rows, strict=True))
        return features, log_weights

    def described(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        """Compute what `novelty.describe` returns for images."""
        parts = []
        for start in range(0, len(images), PART):
            rows = [
                self._session.run(self._names[3:], {"image": image[None]}) for image in images[start : start + PART]
            ]
            maps, log_weights = (torch.from_numpy(np.concatenate(part)) for part in zip(*rows, strict=True))
            parts.append(describe(maps, log_weights))
        statistics, descriptors = zip(*parts, strict=True)
        return torch.cat(statistics), torch.cat(descriptors)


class MarkConstants:
    """The constants of the novelty mark in an `encoder.onnx`.

    Parameters
    ----------
    file
        Contents of `encoder.onnx`.

    Raises
    ------
    ConfigurationError
        If the encoder has no mark of novelty.
    """

    def __init__(self, file: bytes) -> None:
        self._model = onnx.load_from_string(file)
        self._constants = {value.name: value for value in self._model.graph.initializer}
        missing = [name for name in (*COPIED, "usual") if NOVELTY + name not in self._constants]
        if missing:
            raise ConfigurationError(
                f"encoder.onnx has no constant {NOVELTY}{missing[0]}, so it has no mark of novelty to fit; adapt a "
                "bundle whose encoder is `spatial`"
            )
        users = [node for node in self._model.graph.node if f"{NOVELTY}usual" in node.input]
        divided = [
            node for node in self._model.graph.node if node.op_type == "Div" and node.input[0] in users[0].output
        ]
        self._spread = divided[0].input[1]  # rare - usual, which the exporter computes in advance

    def novelty(self) -> Novelty:
        """Return the mark as a PyTorch module."""
        hidden, descriptors = self._array("network.0.weight").shape
        novelty = Novelty(len(self._array("mean")), descriptors, hidden).eval()
        state = {name: torch.from_numpy(self._array(name)) for name in (*COPIED, "usual")}
        state["rare"] = state["usual"] + torch.from_numpy(
            np.array(numpy_helper.to_array(self._constants[self._spread]))
        )
        novelty.load_state_dict(novelty.state_dict() | state)
        return novelty

    def replaced(self, novelty: Novelty) -> bytes:
        """Return the file with another mark. The calibration of the pose's covariance stays as it is."""
        state = novelty.state_dict()
        values = {NOVELTY + name: state[name].numpy() for name in (*COPIED, "usual")}
        values[self._spread] = (state["rare"] - state["usual"]).numpy()
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for name, array in values.items():
            self._replace(model, name, array)
        return bytes(model.SerializeToString())

    def _array(self, name: str) -> np.ndarray:
        return np.array(numpy_helper.to_array(self._constants[NOVELTY + name]))

    def _replace(self, model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
        """Replace a constant where the mark uses it: exporters merge constants of equal value."""
        users = [(node, place) for node in model.graph.node for place, used in enumerate(node.input) if used == name]
        if len(users) != 1:
            raise ConfigurationError(f"encoder.onnx uses its constant {name} {len(users)} times, expected once")
        for value in model.graph.initializer:
            if value.name == name:
                value.CopyFrom(numpy_helper.from_array(np.array(array, np.float32), name))


def check_mark(encoder: DeployedEncoder, novelty: Novelty, images: np.ndarray) -> None:
    """Check that a mark is the one that the encoder's file computes.

    Raises
    ------
    ConfigurationError
        If the file computes its embedding in another way, so that a fitted mark would mean something else.
    """
    with torch.no_grad():
        statistics, descriptors = encoder.described(images)
        raw = (novelty.raw(statistics, descriptors) - novelty.usual) / (novelty.rare - novelty.usual)
        marks = raw.amax(dim=1).clamp(0.0, MOST).numpy()
    error = float(np.abs(marks - encoder.features(images)[2]).max())
    if not error <= SAME_MARK:
        raise ConfigurationError(
            f"encoder.onnx computes its mark of novelty in another way (it differs by {error:.2g}); export the bundle "
            "again with this rlfp_ros"
        )
