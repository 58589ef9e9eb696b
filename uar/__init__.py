"""UAR, "Unify, Align and Refine": radiology report generation (Li et al., ICCV 2023).

import uar

report = uar.load("model.uar").report(["frontal.dcm", "lateral.png"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from uar.bundle.reporter import Reporter

__version__ = "0.2.0"
__all__ = ["__version__", "load"]


def load(path: str | Path, device: str = "auto") -> Reporter:
    """Open a bundle, ready to write reports.

    Args:
        path: a file that `python -m pipeline export` wrote.
        device: auto | cpu | cuda | mps.

    Raises:
        UserError: the file is absent, no bundle, damaged, of another format version, or made of
            parts of two runs.
    """
    from uar.bundle.reporter import load  # torch: `import uar` stays quick

    return load(path, device)
