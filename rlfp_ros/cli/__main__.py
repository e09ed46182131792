"""`python -m rlfp_ros.cli`: the `rlfp` command."""

import sys

from rlfp_ros.cli import main

if __name__ == "__main__":
    sys.exit(main())
