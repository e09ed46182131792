"""Definitions, type hashes and decoding of ROS 2 message types, without ROS 2.

MCAP stores the definitions, so that a bag can be decoded without any other file.
"""

from __future__ import annotations

import functools
import os
import struct
from pathlib import Path
from typing import Any

from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from rlfp_ros.schema import ConfigurationError

DISTRIBUTION = "jazzy"


@functools.cache
def typestore() -> Any:
    """Return the rosbags library's store of the distribution's message types; others are added when needed."""
    return get_typestore(Stores.ROS2_JAZZY)


def register(typename: str, encoding: str, text: str) -> None:
    """Register `pkg/msg/Type` and the types in it from a definition in a bag, unless they are known already.

    `encoding` is `ros2msg` or `ros2idl`, as rosbag2 writes them; others are ignored. Raises TypesysError or ValueError
    if the text cannot be read.
    """
    if typename in typestore().fielddefs:
        return
    types: dict[str, Any] = {}
    if encoding == "ros2msg":
        types = get_types_from_msg(text, typename)
    elif encoding == "ros2idl":
        # rosbag2 puts a separator and a line `IDL: pkg/msg/Type` before each
        for part in filter(str.strip, text.split("=" * 80 + "\n")):
            types |= get_types_from_idl(part.partition("\n")[2] if part.startswith("IDL: ") else part)
    typestore().register({name: fields for name, fields in types.items() if name not in typestore().fielddefs})


def deserialise(data: bytes, typename: str) -> Any:
    """Decode a CDR message to an object; sequences of numbers are numpy arrays.

    As in ROS, bytes behind the last field do not matter: rclpy leaves some behind a message with empty sequences, and
    rosbags' own `deserialize_cdr` refuses those.

    Raises
    ------
    ValueError
        If the data is not a message of this type.
    """
    if len(data) < 4 or data[0] != 0 or data[1] > 1:
        raise ValueError(f"its encapsulation is {bytes(data[:4]).hex(' ') or 'missing'}, expected CDR")
    message = typestore().get_msgdef(typename)
    decode = message.deserialize_cdr_le if data[1] else message.deserialize_cdr_be
    try:
        return decode(memoryview(data)[4:], 0, message.cls, typestore())[0]
    except (struct.error, SerdeError, IndexError, MemoryError) as error:
        raise ValueError(str(error)) from None


@functools.cache
def definition(typename: str) -> str:
    """Return the `ros2msg` text of `pkg/msg/Type`: its fields, then those of every type in it, as rosbag2 joins them.

    Raises ConfigurationError if neither the distribution nor an installed package defines the type.
    """
    _require(typename)
    return str(typestore().generate_msgdef(typename, ros_version=2)[0])


@functools.cache
def type_hash(typename: str) -> str:
    """Return the RIHS01 hash (REP-2016) of `pkg/msg/Type`."""
    _require(typename)
    return str(typestore().hash_rihs01(typename))


def _require(typename: str) -> None:
    if typename in typestore().fielddefs:
        return
    package, _, name = typename.partition("/msg/")
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        file = Path(prefix) / "share" / package / "msg" / f"{name}.msg"
        if name and file.is_file():
            types = get_types_from_msg(file.read_text(encoding="utf-8"), typename)
            typestore().register(types)
            for _, fields in types.values():
                for nested in _nested_types(fields):
                    _require(nested)
            return
    raise ConfigurationError(
        f"message type {typename} is not known; source the workspace that defines it, "
        "or leave its topic out of `topics`"
    )


def _nested_types(fields: Any) -> list[str]:
    names = []
    for _, (kind, what) in fields:
        while int(kind) in (3, 4):  # array, sequence: the element's description and a length
            kind, what = what[0]
        if int(kind) == 2:  # a message type by name
            names.append(what)
    return names
