"""Tests use the demo's portable arithmetic, so that thresholds hold on every CPU that can do it."""

import os

from uar.core.arithmetic import set_up

set_up(os.environ, "portable", 1)
