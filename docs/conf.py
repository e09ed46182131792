"""The documentation as a site: `python -m sphinx -W docs site`. Needs the requirement set `dev`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rlfp_ros import __version__

project = "RLfP-ROS"
author = "The RLfP-ROS authors"
copyright = "The RLfP-ROS authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc", "sphinx_copybutton"]
exclude_patterns = ["measured", "README.md"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4  # links to headings are checked
autodoc_mock_imports = ["rclpy"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"RLfP-ROS {release}"
html_static_path: list[str] = []
