"""A stage before the encoder that corrects an image's colours: gamma, then a colour matrix and an offset.

The correction is computed from the image's own colour statistics by a small network, so that images of training can
stay as they are while images of another light are corrected. It begins as the identity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rlfp_ros.adaptation.adaptation import (
    ADAPTATIONS,
    Adaptation,
    AdaptationBatch,
    AdaptationTraining,
    Report,
    Teacher,
    recorded_batch,
    train,
)
from rlfp_ros.adaptation.encoder import EncoderParts
from rlfp_ros.adaptation.material import AdaptationMaterial
from rlfp_ros.schema import ConfigurationError

HIDDEN = 16
DARKEST = 1e-3  # share of full scale; the gamma of 0 has no gradient
LEARNING_RATE_RATIO = 10.0  # to that of the encoder's own weights
PREFIX = "image_adapter."
CORRECTIONS = ("gamma", "matrix", "offset")
TRAINED = tuple(f"{part}.{kind}" for part in ("hidden", *CORRECTIONS) for kind in ("weight", "bias"))


def with_image_adapter(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an encoder's model with the stage between its input and its normalisation, as the identity.

    Raises
    ------
    ConfigurationError
        If the encoder has the stage already.
    """
    if any(value.name.startswith(PREFIX) for value in model.graph.initializer):
        raise ConfigurationError("encoder.onnx has an image adapter already; adapt the bundle that it was made from")
    rng = np.random.default_rng(0)
    pixels = EncoderParts(model).pixels
    _, height, width, _ = (part.dim_value for part in model.graph.input[0].type.tensor_type.shape.dim)
    constants: dict[str, np.ndarray] = {
        "white": np.array(255.0, np.float32),
        "darkest": np.array(DARKEST, np.float32),
        "brightest": np.array(1.0, np.float32),
        "axes": np.array([2, 3], np.int64),
        "flat": np.array([1, 3, height * width], np.int64),
        "square": np.array([1, 3, 3], np.int64),
        "column": np.array([1, 3, 1], np.int64),
        "image": np.array([1, 3, height, width], np.int64),
        "two": np.array(2.0, np.float32),
        "hidden.weight": rng.normal(0, 1.0, (HIDDEN, 6)).astype(np.float32),
        "hidden.bias": np.zeros(HIDDEN, np.float32),
        "gamma.weight": np.zeros((3, HIDDEN), np.float32),
        "gamma.bias": np.zeros(3, np.float32),
        "matrix.weight": np.zeros((9, HIDDEN), np.float32),
        "matrix.bias": np.eye(3, dtype=np.float32).ravel(),
        "offset.weight": np.zeros((3, HIDDEN), np.float32),
        "offset.bias": np.zeros(3, np.float32),
    }
    shared: dict[str, int] = {}

    def constant(name: str) -> str:
        """Add a constant; each node gets one of its own, as `float_model` does."""
        shared[name] = shared.get(name, 0) + 1
        own = f"{PREFIX}{name}" if shared[name] == 1 else f"{PREFIX}{name}.{shared[name] - 1}"
        model.graph.initializer.append(numpy_helper.from_array(constants[name], own))
        return own

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [PREFIX + output], **attributes)

    def linear(source: str, name: str) -> onnx.NodeProto:
        return node("Gemm", [PREFIX + source, constant(f"{name}.weight"), constant(f"{name}.bias")], name, transB=1)

    def shaped(source: str, shape: str, output: str) -> onnx.NodeProto:
        return node("Reshape", [PREFIX + source, constant(shape)], output)

    def values(name: str) -> str:
        return PREFIX + name

    nodes = [
        node("Div", [pixels, constant("white")], "unit"),
        node("ReduceMean", [values("unit"), constant("axes")], "mean", keepdims=0),
        node("Pow", [values("unit"), constant("two")], "squared"),
        node("ReduceMean", [values("squared"), constant("axes")], "mean_square", keepdims=0),
        node("Concat", [values("mean"), values("mean_square")], "statistics", axis=1),
        linear("statistics", "hidden"),
        node("Tanh", [values("hidden")], "code"),
        *(linear("code", part) for part in CORRECTIONS),
        node("Exp", [values("gamma")], "power"),
        shaped("power", "column", "powers"),
        shaped("unit", "flat", "pixels"),
        node("Clip", [values("pixels"), constant("darkest"), constant("brightest")], "positive"),
        node("Pow", [values("positive"), values("powers")], "curved"),
        shaped("matrix", "square", "matrices"),
        node("MatMul", [values("matrices"), values("curved")], "mixed"),
        shaped("offset", "column", "offsets"),
        node("Add", [values("mixed"), values("offsets")], "corrected"),
        node("Mul", [values("corrected"), constant("white")], "counts"),
        shaped("counts", "image", "adapted"),
    ]
    for user in model.graph.node:
        user.input[:] = [values("adapted") if name == pixels else name for name in user.input]
    place = next(place for place, each in enumerate(model.graph.node) if pixels in each.output) + 1
    after = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*after[:place], *nodes, *after[place:]])
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    return model


@ADAPTATIONS.register("image-adapter")
class ImageAdapter(Adaptation):
    """Correct the colours of an image before the encoder sees it, learned from the points of the arm."""

    def prepare(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Insert the stage."""
        return with_image_adapter(model)

    def adapt(self, material: AdaptationMaterial, training: AdaptationTraining, report: Report) -> bytes:
        """Train the stage; the encoder behind it stays as it is."""
        encoder, teacher = self.encoder(material), Teacher(material)

        def batches(rng: np.random.Generator) -> list[AdaptationBatch]:
            recorded = rng.integers(0, len(material.recorded.images), training.batch)
            rendered = rng.integers(0, len(teacher), training.batch)
            return [recorded_batch(material, recorded), teacher.batch(rendered)]

        faster = AdaptationTraining(
            training.images,
            training.updates,
            training.batch,
            LEARNING_RATE_RATIO * training.learning_rate,
            training.seed,
        )
        weights = encoder.train_weights([PREFIX + name for name in TRAINED])
        train(encoder, weights, batches, material.recorded.labels.indices, faster, report)
        return encoder.file()
