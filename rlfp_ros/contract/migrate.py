"""Versions of `bundle.yaml`: reads older ones, and refuses newer ones with a sentence that says what to install.

Version 1
    Release 0.2 and before.
Version 2
    `action.decision_rate_hz`, `policy.past_actions`, `written_with`; an encoder without object pose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlfp_ros.schema import ConfigurationError
from rlfp_ros.version import VERSION as PACKAGE_VERSION

VERSION = 2  # of bundle.yaml, as it is written now

Document = dict[str, Any]


def migrated(document: Any, source: str) -> Any:
    """Return the document of a contract in the present version; the given one does not change.

    A document of the present version, and what is not a contract at all, come back as they are.

    Parameters
    ----------
    document
        Content of `bundle.yaml`.
    source
        What to name in an error.

    Raises
    ------
    ConfigurationError
        If the version is newer than `VERSION`, or not a version.
    """
    if not isinstance(document, dict) or "schema" not in document:
        return document
    version = document["schema"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ConfigurationError(f"{source}: schema is {version!r}, expected a version from 1 to {VERSION}; correct it")
    if version > VERSION:
        writer = document.get("written_with")
        wanted = f"rlfp_ros {writer} or newer" if isinstance(writer, str) and writer else "a newer rlfp_ros"
        raise ConfigurationError(
            f"{source}: schema is {version}, but rlfp_ros {PACKAGE_VERSION} reads versions up to {VERSION}; install "
            f"{wanted}, with which it was written"
        )
    for step in STEPS[version - 1 :]:
        document = step(document)
    return document


def _from_1(document: Document) -> Document:
    """Version 1 decided on every image and had no past actions."""
    document = document | {"schema": 2}
    action, policy = document.get("action"), document.get("policy")
    if isinstance(action, dict) and "rate_hz" in action:
        document["action"] = {"decision_rate_hz": action["rate_hz"]} | action
    if isinstance(policy, dict):
        document["policy"] = {"past_actions": 0} | policy
    return document


STEPS: tuple[Callable[[Document], Document], ...] = (_from_1,)  # from version 1, 2, ... to the next one
