"""A network from an ONNX file as a PyTorch module: its initialisers are trainable, and it can be written back.

A shipped bundle holds its encoder only as `encoder.onnx`. All weights are in there: batch normalisation is folded into
the convolutions before it. The graph itself is run by PyTorch, operator by operator, so that encoders of every release
are rebuilt exactly, whatever they compute after the convolutions.

An int8 encoder is first turned into a float one with the weights that int8 stands for. Its activations are then no
longer rounded, so its outputs differ from those of the int8 file by that rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.schema import ConfigurationError

Values = dict[str, Any]  # tensors and integer constants by their names in the graph
Attributes = dict[str, Any]
Operator = Callable[[list[Any], Attributes], Tensor]


def float_model(file: bytes) -> onnx.ModelProto:
    """Return an ONNX model without quantisation, in which no two nodes share a constant.

    Exporters merge constants of equal value, so that a change of one would change another.
    """
    model = onnx.load_from_string(file)
    graph = model.graph
    constants = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    same: dict[str, str] = {}  # name -> the value that it stands for without rounding
    nodes = []
    for node in graph.node:
        inputs = [same.get(name, name) for name in node.input]
        if node.op_type == "QuantizeLinear":
            same[node.output[0]] = inputs[0]
        elif node.op_type == "DequantizeLinear" and inputs[0] in constants:
            constants[node.output[0]] = _dequantised(node, *(constants[name] for name in node.input))
        elif node.op_type == "DequantizeLinear":
            same[node.output[0]] = inputs[0]
        else:
            node.input[:] = inputs
            nodes.append(node)
    uses: Counter[str] = Counter()
    kept: dict[str, np.ndarray] = {}
    for node in nodes:
        for place, name in enumerate(node.input):
            if name in constants:
                node.input[place] = f"{name}.{uses[name]}" if uses[name] else name
                kept[node.input[place]] = constants[name]
                uses[name] += 1
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(np.array(array, order="C"), name) for name, array in kept.items())
    del graph.value_info[:]
    return model


def _dequantised(node: onnx.NodeProto, values: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    axis = attributes_of(node).get("axis", 1)
    if scale.ndim:
        shape = [-1 if place == axis else 1 for place in range(values.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return ((values.astype(np.int64) - zero.astype(np.int64)) * scale.astype(np.float64)).astype(np.float32)


def attributes_of(node: onnx.NodeProto) -> Attributes:
    """Return a node's attributes by name."""
    return {value.name: onnx.helper.get_attribute_value(value) for value in node.attribute}


class OnnxNetwork(nn.Module):
    """The graph of an ONNX model with one input, an image.

    Parameters
    ----------
    model
        A model as `float_model` returns it.

    Raises
    ------
    ConfigurationError
        If the graph has an operator that is not known here.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        unknown = {node.op_type for node in model.graph.node} - set(OPERATORS)
        if unknown:
            raise ConfigurationError(
                f"encoder.onnx has the operator {sorted(unknown)[0]}, which cannot be trained here; adapt a bundle "
                "whose encoder is one of rlfp_ros"
            )
        self.model = model
        self._attributes = [attributes_of(node) for node in model.graph.node]
        self.weights = nn.ParameterDict()
        self._constants: dict[str, np.ndarray] = {}
        for value in model.graph.initializer:
            array = np.array(numpy_helper.to_array(value))
            if array.dtype == np.float32:
                self.weights[_key(value.name)] = nn.Parameter(torch.from_numpy(array), requires_grad=False)
            else:
                self._constants[value.name] = array

    def weight(self, name: str) -> nn.Parameter:
        """Return the weight of this name in the graph."""
        found = self.weights[_key(name)]
        assert isinstance(found, nn.Parameter)
        return found

    def forward(self, images: Tensor, wanted: Sequence[str]) -> tuple[Tensor, ...]:
        """Compute values of the graph for images uint8 [B, H, W, 3] or float [B, H, W, 3], 0 to 255.

        Returns
        -------
        tuple of Tensor
            [B, ...] each, without the graph's own batch dimension of 1.
        """
        places = self._needed(wanted)
        name = self.model.graph.input[0].name

        def run(image: Tensor) -> tuple[Tensor, ...]:
            values = self._run({name: image[None]}, places)
            return tuple(values[each][0] for each in wanted)

        return torch.vmap(run)(images)  # the graph's shapes are those of one image

    def _needed(self, wanted: Sequence[str]) -> list[int]:
        """Return the places of the nodes that `wanted` depends on, in order."""
        names, places = set(wanted), []
        for place in reversed(range(len(self.model.graph.node))):
            node = self.model.graph.node[place]
            if names & set(node.output):
                places.append(place)
                names |= set(node.input)
        return places[::-1]

    def _run(self, values: Values, places: Sequence[int]) -> Values:
        for place in places:
            node = self.model.graph.node[place]
            inputs = [self._value(values, name) for name in node.input]
            values[node.output[0]] = OPERATORS[node.op_type](inputs, self._attributes[place])
        return values

    def _value(self, values: Values, name: str) -> Any:
        if not name:
            return None
        if name in values:
            return values[name]
        return self._constants[name] if name in self._constants else self.weights[_key(name)]

    def to_model(self) -> onnx.ModelProto:
        """Return the ONNX model with the present weights."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for value in model.graph.initializer:
            if _key(value.name) in self.weights:
                array = self.weight(value.name).detach().numpy()
                value.CopyFrom(numpy_helper.from_array(np.array(array, order="C"), value.name))
        return model


def _key(name: str) -> str:
    return name.replace(".", "/")  # a module's parameters may not have dots in their names


# --- operators, as ONNX defines them; each takes its inputs and its attributes ----------------------------------------


def _shape(values: Any) -> list[int]:
    return [int(value) for value in np.ravel(values)]


def _conv(inputs: list[Any], attributes: Attributes) -> Tensor:
    bias = inputs[2] if len(inputs) > 2 else None
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    assert (top, left) == (bottom, right)
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    group = attributes.get("group", 1)
    return functional.conv2d(inputs[0], inputs[1], bias, tuple(strides), (top, left), tuple(dilations), group)


def _average_pool(inputs: list[Any], attributes: Attributes) -> Tensor:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    assert (top, left) == (bottom, right)
    kernel, strides = tuple(attributes["kernel_shape"]), tuple(attributes["strides"])
    counted = bool(attributes.get("count_include_pad", 0))
    return functional.avg_pool2d(inputs[0], kernel, strides, (top, left), count_include_pad=counted)


def _depth_to_space(inputs: list[Any], attributes: Attributes) -> Tensor:
    assert attributes["mode"] == b"CRD"
    return functional.pixel_shuffle(inputs[0], int(attributes["blocksize"]))


def _gemm(inputs: list[Any], attributes: Attributes) -> Tensor:
    weight = inputs[1].T if attributes.get("transB") else inputs[1]
    return inputs[0] @ weight + inputs[2]


def _reduce(reduction: Callable[..., Tensor]) -> Operator:
    def reduce(inputs: list[Any], attributes: Attributes) -> Tensor:
        return reduction(inputs[0], dim=_shape(inputs[1]), keepdim=bool(attributes.get("keepdims", 1)))

    return reduce


def _unsqueeze(inputs: list[Any], attributes: Attributes) -> Tensor:
    result = inputs[0]
    for place in sorted(_shape(inputs[1])):
        result = result.unsqueeze(place)
    return result


def _slice(inputs: list[Any], attributes: Attributes) -> Tensor:
    result = inputs[0]
    for start, stop, axis, step in zip(*(_shape(values) for values in inputs[1:]), strict=True):
        cut = [slice(None)] * result.dim()
        cut[axis] = slice(start, min(stop, 2**31), step)
        result = result[tuple(cut)]
    return result


def _gather(inputs: list[Any], attributes: Attributes) -> Tensor:
    index = np.asarray(inputs[1])
    if index.ndim == 0:
        return inputs[0].select(attributes.get("axis", 0), int(index))
    return inputs[0].index_select(attributes.get("axis", 0), torch.from_numpy(index.astype(np.int64)))


def _pad(inputs: list[Any], attributes: Attributes) -> Tensor:
    widths = _shape(inputs[1])
    half = len(widths) // 2
    pairs = [pair for place in reversed(range(half)) for pair in (widths[place], widths[half + place])]
    return functional.pad(inputs[0], pairs)


def _clip(inputs: list[Any], attributes: Attributes) -> Tensor:
    least, most = (inputs[place] if len(inputs) > place else None for place in (1, 2))
    return torch.clamp(inputs[0], least, most)


OPERATORS: dict[str, Operator] = {
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "AveragePool": _average_pool,
    "Cast": lambda inputs, _: inputs[0].float(),
    "Clip": _clip,
    "Concat": lambda inputs, attributes: torch.cat(inputs, attributes["axis"]),
    "Conv": _conv,
    "DepthToSpace": _depth_to_space,
    "Div": lambda inputs, _: inputs[0] / inputs[1],
    "Exp": lambda inputs, _: inputs[0].exp(),
    "Gather": _gather,
    "Gemm": _gemm,
    "Greater": lambda inputs, _: inputs[0] > inputs[1],
    "Identity": lambda inputs, _: inputs[0],
    "Log": lambda inputs, _: inputs[0].log(),
    "LogSoftmax": lambda inputs, attributes: inputs[0].log_softmax(attributes.get("axis", -1)),
    "MatMul": lambda inputs, _: inputs[0] @ inputs[1],
    "Mul": lambda inputs, _: inputs[0] * inputs[1],
    "Neg": lambda inputs, _: -inputs[0],
    "Pad": _pad,
    "Pow": lambda inputs, _: inputs[0] ** inputs[1],
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": lambda inputs, _: functional.relu(inputs[0]),
    "Reshape": lambda inputs, _: inputs[0].reshape(_shape(inputs[1])),
    "Sigmoid": lambda inputs, _: inputs[0].sigmoid(),
    "Slice": _slice,
    "Softmax": lambda inputs, attributes: inputs[0].softmax(attributes.get("axis", -1)),
    "Softplus": lambda inputs, _: functional.softplus(inputs[0]),
    "Sqrt": lambda inputs, _: inputs[0].sqrt(),
    "Sub": lambda inputs, _: inputs[0] - inputs[1],
    "Tanh": lambda inputs, _: inputs[0].tanh(),
    "Transpose": lambda inputs, attributes: inputs[0].permute(attributes["perm"]),
    "Unsqueeze": _unsqueeze,
    "Where": lambda inputs, _: torch.where(inputs[0], inputs[1], inputs[2]),
}
