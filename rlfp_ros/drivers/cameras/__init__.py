"""The cameras that ship, one file each; `rlfp_ros.drivers.camera` finds them by name."""
