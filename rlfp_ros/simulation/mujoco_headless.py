"""MuJoCo set up to draw without a display; import it from here, because it looks at MUJOCO_GL once, at import."""

from __future__ import annotations

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # Mesa's EGL draws without a GPU too; osmesa works where it is installed

import mujoco as mujoco

PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri"  # Debian's and Ubuntu's, for EGL in software
