"""Finds the package's data: in the source tree, or in the share folder of an installed package."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from rlfp_ros.schema import ConfigurationError


def share_directory() -> Path:
    """Return the folder that holds `config/`, `models/`, `sim/` and `launch/`."""
    package = Path(__file__).resolve().parent
    candidates = [package.parent, Path(sysconfig.get_path("data")) / "share" / "rlfp_ros"]
    # A colcon install: <prefix>/lib/python3.x/site-packages/rlfp_ros beside <prefix>/share/rlfp_ros.
    candidates += [parent / "share" / "rlfp_ros" for parent in package.parents]
    for candidate in candidates:
        if (candidate / "config" / "arms").is_dir():
            return candidate
    raise ConfigurationError(
        f"rlfp_ros: no config/arms beside {package} nor in share/rlfp_ros; install the package again"
    )


def resolve(name_or_path: str | Path, folder: str, suffix: str = "") -> Path:
    """Find a file that a user named, as a path or as the name of one that ships in `folder`.

    `resolve("panda", "config/arms", ".yaml")` and `resolve("my/arm.yaml", ...)` both work. With a suffix only files
    count, so that a folder called `train` is not taken for the profile.
    Raises ConfigurationError that lists the shipped names.
    """
    shipped = share_directory() / folder
    try:
        given = Path(name_or_path).expanduser()
        if given.is_file() or (given.exists() and not suffix):
            return given
        found = shipped / f"{name_or_path}{suffix}"
        if found.exists():
            return found
        wrong = "is a folder" if given.exists() else "no such file"
    except OSError as error:  # a folder on the way that may not be entered, or a name that is too long
        raise ConfigurationError(f"{name_or_path}: cannot be read ({error.strerror}); correct that") from None
    except RuntimeError:  # expanduser
        raise ConfigurationError(f"{name_or_path}: there is no such user; write the path without ~") from None
    names = sorted(path.name.removesuffix(suffix) for path in shipped.glob(f"*{suffix}"))
    raise ConfigurationError(
        f"{given}: {wrong}, and {folder}/ has no {str(name_or_path)!r}; it has: {', '.join(names) or 'nothing'}"
    )
