"""Tests compute as the demo does, so that a threshold holds on every CPU that can."""

import os

from uar.core.arithmetic import set_up

set_up(os.environ, "portable", 1)
