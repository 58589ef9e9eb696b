"""UAR, "Unify, Align and Refine": radiology report generation (Li et al., ICCV 2023).

import uar

report = uar.load("model.uar").report(["frontal.dcm", "lateral.png"])
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uar.bundle.reporter import Reporter

__version__ = "0.2.0"
__all__ = ["__version__", "load"]


def load(path: str | Path, device: str = "auto") -> Reporter:
    """Open a bundle, ready to write reports.

    On a CPU it computes with the bundle's arithmetic if torch and numpy have not been loaded yet;
    otherwise it logs a warning.

    Args:
        path: a file that `python -m pipeline export` wrote.
        device: auto | cpu | cuda | mps.

    Raises:
        UserError: the file is absent, not a bundle, damaged, of another format version, or made
            of parts of two runs.
    """
    from uar.bundle.manifest import arithmetic_of
    from uar.core.arithmetic import set_up

    made = arithmetic_of(Path(path)) if device in ("auto", "cpu") else ("native", None)
    reason = set_up(os.environ, *made)
    from uar.bundle.reporter import load  # loads torch; `import uar` itself stays quick

    if reason or (reason := set_up(os.environ, *made)):
        logging.getLogger(__name__).warning(
            f"{path}: {reason} Reports may differ by a word from those of the machine that made "
            "the bundle."
        )
    return load(path, device)
