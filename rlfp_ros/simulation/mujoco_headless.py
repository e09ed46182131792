"""Imports MuJoCo for rendering without a display. Import it from here: it reads MUJOCO_GL only at import."""

from __future__ import annotations

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # Mesa's EGL draws without a GPU too; osmesa works where it is installed

import mujoco as mujoco

PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri"  # Debian's and Ubuntu's, for EGL in software
