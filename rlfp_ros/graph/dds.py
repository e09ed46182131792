"""Environment variables that put a process into the graph's DDS domain, on its transports."""

from __future__ import annotations

import os

from rlfp_ros import paths

# A best-effort image needs room for itself and the one before it in Fast DDS's default shared-memory segment (512 KiB).
LARGE_IMAGE_BYTES = 200_000
# Share of /dev/shm that one participant with config/fastdds_large_images_*.xml takes.
LARGE_SEGMENT_BYTES = 34_000_000
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"  # environment variable of Fast DDS


def environment(transport: str, domain_id: str = "", large_images: bool = False) -> dict[str, str]:
    """Return environment variables of one node, in addition to the caller's: those of DDS, and one thread per process.

    Seven nodes share two cores, and a spinning thread pool starves the others.
    """
    return {**dict.fromkeys(THREADS, "1"), **dds_environment(transport, domain_id, large_images)}


def dds_environment(transport: str, domain_id: str = "", large_images: bool = False) -> dict[str, str]:
    """Return environment variables that put a process into the graph's domain, on its transports.

    `local` is shared memory alone: no UDP socket, and only participants that are set the same way see it. `lan` is
    shared memory and UDP. `host` is the same with UDP on the loopback interface alone: all participants on this
    computer see it, and nothing outside. With `lan` and `host`, the caller's choice counts if
    FASTDDS_BUILTIN_TRANSPORTS or FASTRTPS_DEFAULT_PROFILES_FILE is set.
    """
    values = {}
    if transport == "local":
        values["FASTDDS_BUILTIN_TRANSPORTS"] = "SHM"
    if domain_id:
        values["ROS_DOMAIN_ID"] = domain_id
    if transport == "local" or not {"FASTDDS_BUILTIN_TRANSPORTS", PROFILES}.intersection(os.environ):
        name = f"fastdds_large_images_{transport}.xml" if large_images else f"fastdds_{transport}.xml"
        if transport == "host":  # with LOCALHOST, rmw_fastrtps adds sockets on 0.0.0.0
            values["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"
        values[PROFILES] = str(paths.share_directory() / "config" / name)
    return values
