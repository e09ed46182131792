"""Finds problems of the environment that keep ROS 2 nodes from starting or communicating, each in one sentence.

rcl, rmw and Fast DDS report these with long traces, or not at all: the nodes start and get no messages. The runner, the
demo and `rlfp doctor` use the same list.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import stat
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlfp_ros.graph import shared_memory
from rlfp_ros.schema import ConfigurationError

HIGHEST_DOMAIN = 232  # DDS computes UDP ports from the domain; for higher ones they would exceed 65535
DISCOVERY_PORT = 11811  # Fast DDS's default for a discovery server
SERVER_ANSWER_S = 0.3  # wait for a host's refusal
SHARED_MEMORY_BYTES = 16_000_000  # needed by the graph, about 0.6 MB per participant
BUILTIN_TRANSPORTS = ("DEFAULT", "DEFAULTv6", "SHM", "UDPv4", "UDPv6", "LARGE_DATA", "LARGE_DATAv6", "P2P")
ROS_PACKAGES = ("rclpy", "std_msgs", "std_srvs", "sensor_msgs", "geometry_msgs", "trajectory_msgs", "diagnostic_msgs")


@dataclass(frozen=True)
class Problem:
    """One problem of the environment."""

    name: str  # of the variable, or /dev/shm
    text: str  # what was found and what was expected
    fix: str  # what to do

    def __str__(self) -> str:
        return f"{self.text}; {self.fix}"


def check_environment(environment: Mapping[str, str], transport: str) -> None:
    """Refuse an environment in which the graph cannot run.

    Parameters
    ----------
    environment
        Variables that the nodes get.
    transport
        The launch argument: "lan", "host" or "local".

    Raises
    ------
    ConfigurationError
        With the first problem that `problems` finds.
    """
    for problem in problems(environment, transport):
        raise ConfigurationError(str(problem))


def problems(environment: Mapping[str, str], transport: str = "lan") -> Iterator[Problem]:
    """Yield the problems that keep nodes with these variables from starting or communicating."""
    yield from _domain(environment)
    yield from _log_folder(environment)
    yield from _middleware(environment)
    yield from _packages(environment)
    yield from _discovery(environment, transport)
    yield from _static_peers(environment)
    yield from _transports(environment)
    yield from _security(environment)
    yield from _shared_memory(environment)


def _domain(environment: Mapping[str, str]) -> Iterator[Problem]:
    domain = environment.get("ROS_DOMAIN_ID") or "0"
    if not (domain.isascii() and domain.isdecimal() and int(domain) <= HIGHEST_DOMAIN):
        text = f"ROS_DOMAIN_ID is {domain!r}, expected a number from 0 to {HIGHEST_DOMAIN}"
        yield Problem("ROS_DOMAIN_ID", text, "set such a number or unset it")


def _log_folder(environment: Mapping[str, str]) -> Iterator[Problem]:
    """ROS 2 does not start if it cannot make its folder for log files."""
    for name, below in (("ROS_LOG_DIR", ""), ("ROS_HOME", "log"), ("HOME", ".ros/log")):
        if environment.get(name):
            folder = Path(environment[name]).expanduser() / below
            break
    else:
        yield Problem(
            "HOME",
            "HOME is not set, and ROS 2 writes its log files below it",
            "set HOME, or ROS_LOG_DIR to a folder for them",
        )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)  # as ROS 2 does; permissions alone do not tell (/proc, a full disk)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        text = f"{name} is {environment[name]!r}, and ROS 2 cannot write its log files into {folder}"
        yield Problem(name, text, "set ROS_LOG_DIR to a folder that you may write to")


def _middleware(environment: Mapping[str, str]) -> Iterator[Problem]:
    name = environment.get("RMW_IMPLEMENTATION")
    if not name:
        return
    prefixes = [Path(prefix) for prefix in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    sourced = any((prefix / "lib" / f"lib{name}.so").exists() for prefix in prefixes)
    if not sourced and not (Path(sysconfig.get_path("purelib")) / name).is_dir():
        text = f"RMW_IMPLEMENTATION is {name!r}, and that package is not installed"
        yield Problem("RMW_IMPLEMENTATION", text, "unset RMW_IMPLEMENTATION")


def _packages(environment: Mapping[str, str]) -> Iterator[Problem]:
    """Another ROS's Python packages on the path come before those of this environment, and do not fit them."""
    if environment.get("ROS_DISTRO"):
        return  # a sourced ROS 2 and its overlays are built for each other
    named = [Path(entry).resolve() for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    own = [Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")]
    for package in ROS_PACKAGES:
        with contextlib.suppress(ValueError, ImportError):
            spec = importlib.util.find_spec(package)
            places = [Path(place).resolve() for place in (spec.submodule_search_locations or ())] if spec else []
            if places and places[0].parent in named and places[0].parent not in own:
                text = f"PYTHONPATH has {places[0].parent}, whose {package} is not of the ROS 2 in {sys.prefix}"
                yield Problem(
                    "PYTHONPATH", text, "unset PYTHONPATH and AMENT_PREFIX_PATH, or source that ROS 2's setup.bash"
                )
                return


def _discovery(environment: Mapping[str, str], transport: str) -> Iterator[Problem]:
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    if reach.upper() == "OFF":
        text = "ROS_AUTOMATIC_DISCOVERY_RANGE is OFF: nodes do not find each other"
        yield Problem("ROS_AUTOMATIC_DISCOVERY_RANGE", text, "set it to SUBNET or LOCALHOST, or unset it")
    elif reach and reach.upper() not in ("SUBNET", "LOCALHOST", "SYSTEM_DEFAULT"):
        text = f"ROS_AUTOMATIC_DISCOVERY_RANGE is {reach!r}, expected SUBNET, LOCALHOST or SYSTEM_DEFAULT"
        yield Problem("ROS_AUTOMATIC_DISCOVERY_RANGE", text, "correct it or unset it")
    servers = environment.get("ROS_DISCOVERY_SERVER", "")
    if not servers:
        return
    if transport == "local":
        text = f"ROS_DISCOVERY_SERVER is {servers!r}, but with transport local nodes use no network and reach no server"
        yield Problem("ROS_DISCOVERY_SERVER", text, "unset ROS_DISCOVERY_SERVER")
        return
    for server in filter(None, servers.split(";")):
        reason = _unreachable(server)
        if reason:
            text = f"ROS_DISCOVERY_SERVER is {servers!r}, and no discovery server answers at {server} ({reason})"
            yield Problem("ROS_DISCOVERY_SERVER", text, "start it (fastdds discovery) or unset ROS_DISCOVERY_SERVER")


def _unreachable(server: str) -> str:
    """Return why no server listens there; empty if one may. With UDP only a refusal proves it."""
    address = server.removeprefix("TCPv4:").removeprefix("UDPv4:").strip("[]")
    host, _, port = address.rpartition(":") if address.count(":") == 1 else (address, "", "")
    kind = socket.SOCK_STREAM if server.startswith("TCP") else socket.SOCK_DGRAM
    try:
        family, _, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port or DISCOVERY_PORT), type=kind)[0]
        with socket.socket(family, kind) as client:
            client.settimeout(SERVER_ANSWER_S)
            client.connect(place)
            if kind == socket.SOCK_DGRAM:
                client.send(b"RTPS")  # too short for a message: a server drops it
                client.recv(1)
    except TimeoutError:
        return ""
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _static_peers(environment: Mapping[str, str]) -> Iterator[Problem]:
    """Every peer must be a host that resolves, or no node starts."""
    peers = environment.get("ROS_STATIC_PEERS", "")
    for peer in filter(None, peers.split(";")):
        try:
            socket.getaddrinfo(peer, None)
        except (OSError, ValueError) as error:
            text = f"ROS_STATIC_PEERS is {peers!r}, and {peer!r} is not a host that can be found ({error})"
            yield Problem(
                "ROS_STATIC_PEERS", text, "give names or addresses without ports, separated by ;, or unset it"
            )


def _transports(environment: Mapping[str, str]) -> Iterator[Problem]:
    """Fast DDS takes its defaults instead of a wrong value or a missing file, and loses large images."""
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        file = environment.get(name)
        if file and not Path(file).is_file():
            text = f"{name} is {file!r}, and there is no such file, so that nodes run without it"
            yield Problem(name, text, f"correct the path or unset {name}")
    given = environment.get("FASTDDS_BUILTIN_TRANSPORTS", "").partition("?")[0]
    if given and given not in BUILTIN_TRANSPORTS:
        text = f"FASTDDS_BUILTIN_TRANSPORTS is {given!r}, expected one of {', '.join(BUILTIN_TRANSPORTS)}"
        yield Problem("FASTDDS_BUILTIN_TRANSPORTS", text, "correct it or unset it")


def _security(environment: Mapping[str, str]) -> Iterator[Problem]:
    if environment.get("ROS_SECURITY_ENABLE", "").lower() != "true":
        return
    keystore = environment.get("ROS_SECURITY_KEYSTORE", "")
    if not keystore or not Path(keystore).is_dir():
        found = (
            f"ROS_SECURITY_KEYSTORE is {keystore!r}, no such folder" if keystore else "ROS_SECURITY_KEYSTORE is not set"
        )
        text = f"ROS_SECURITY_ENABLE is true, but {found}: nodes would run without security or not at all"
        yield Problem(
            "ROS_SECURITY_ENABLE", text, "make a keystore (ros2 security create_keystore) or unset ROS_SECURITY_ENABLE"
        )
    elif not environment.get("ROS_DISTRO"):
        text = "ROS_SECURITY_ENABLE is true, but Fast DDS in the ROS 2 wheels has no security plugins"
        yield Problem("ROS_SECURITY_ENABLE", text, "use an installed ROS 2, or unset ROS_SECURITY_ENABLE")


def _shared_memory(environment: Mapping[str, str]) -> Iterator[Problem]:
    if not shared_memory.FOLDER.is_dir():
        yield Problem(
            "/dev/shm", "/dev/shm is not there, and nodes exchange messages through it", "mount -t tmpfs tmpfs /dev/shm"
        )
        return
    free = shutil.disk_usage(shared_memory.FOLDER).free
    if free < SHARED_MEMORY_BYTES:
        text = f"/dev/shm has {free / 1e6:.1f} MB free, and the graph needs {SHARED_MEMORY_BYTES / 1e6:.0f} MB"
        yield Problem(
            "/dev/shm", text, "remove files there (ls -l /dev/shm) or enlarge it (docker run --shm-size=256m)"
        )
    foreign = list(_foreign_ports(environment.get("ROS_DOMAIN_ID") or "0"))
    if foreign:
        path, owner = foreign[0]
        text = f"/dev/shm has {len(foreign)} Fast DDS files of user {owner} on this domain's ports, such as {path.name}"
        yield Problem(
            "/dev/shm",
            text,
            f"set another ROS_DOMAIN_ID, or once that user's nodes have ended: sudo rm {path.parent}/*fastrtps_*",
        )


def _foreign_ports(domain: str) -> Iterator[tuple[Path, str]]:
    """Return shared-memory ports of the domain that belong to another user and cannot be opened."""
    if not domain.isdecimal():
        return
    for path in sorted(shared_memory.FOLDER.glob("*fastrtps_port*")):
        digits = "".join(letter for letter in path.name.partition("fastrtps_port")[2] if letter.isdecimal())
        with contextlib.suppress(OSError):
            status = path.stat()
            if not digits or int(digits) not in shared_memory.ports(int(domain)) or not stat.S_ISREG(status.st_mode):
                continue
            if status.st_uid != os.getuid() and not os.access(path, os.R_OK | os.W_OK):
                yield path, _user(status.st_uid)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
