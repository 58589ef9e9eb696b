"""Arithmetic that rounds alike on every x86-64 CPU with AVX2, from any maker.

Libraries choose instructions by the CPU they find, some by its maker too. Another choice sums in
another order, and training turns a different last digit into a different model. `portable` holds
all libraries to one choice. They read the settings when they are loaded, so these are set before;
this module loads none of them.

Where no setting is enough, `uar.core.kernels` replaces the operation. `make portable` compares
CPUs; docs/reproducibility.md says what is promised.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import MutableMapping
from pathlib import Path

PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    "MKL_CBWR": "COMPATIBLE",  # torch.linalg, attention; its AVX2 is not the same on every maker's
    "OPENBLAS_CORETYPE": "Haswell",  # numpy's and scipy's products, and torch's by uar.core.kernels
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # numpy 2.4's names
}
_LIBRARIES = ("numpy", "torch")
_NEEDED = {"avx2", "fma"}


def set_up(
    environment: MutableMapping[str, str], arithmetic: str, threads: int | None
) -> str | None:
    """Set up the arithmetic: before libraries are loaded, and again after, for torch's kernels.

    Args:
        environment: of this process, inherited by the processes that it starts.
        arithmetic: portable | native, which leaves the choice to each library.
        threads: of the CPU; None leaves the number to the libraries. Another number rounds sums
            differently.

    Returns:
        Why `arithmetic` cannot be set up, as a sentence, in which case nothing of it is; else None.
    """
    if threads is not None:
        for library in ("OMP", "MKL", "OPENBLAS"):
            environment[f"{library}_NUM_THREADS"] = str(threads)
        environment["MKL_DYNAMIC"] = "FALSE"  # as many even where cores are fewer
    if arithmetic != "portable":
        return None
    if reason := unsupported():
        return reason
    if any(environment.get(name) != value for name, value in PORTABLE.items()):
        if loaded := [name for name in _LIBRARIES if name in sys.modules]:
            return (
                f"{' and '.join(loaded)} had been loaded with other settings than those of "
                "arithmetic: portable, and reads them only then."
            )
        environment.update(PORTABLE)
        environment.pop("OPENBLAS_L2_SIZE", None)
    if "torch" in sys.modules:
        from uar.core.kernels import replace_kernels

        replace_kernels()
    return None


def unsupported() -> str | None:
    """Why this machine has no portable arithmetic, as a sentence; None if it has."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        found = f"{platform.system()} on {platform.machine()}"
    else:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
        missing = sorted(_NEEDED - set(flags.split()))
        if not missing:
            return None
        found = f"a CPU without {' and '.join(missing)}"
    return f"arithmetic: portable needs Linux on an x86-64 CPU with AVX2 and FMA; this is {found}."
