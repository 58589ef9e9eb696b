"""Arithmetic that rounds alike on every x86-64 CPU with AVX2, from any vendor.

Libraries choose instructions by the CPU they find, some also by its vendor. A different choice sums
in a different order, and training turns a different last digit into a different model. `portable`
holds all libraries to one choice. They read their settings when they are loaded, so the settings
come first; this module loads none of them.

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
    "MKL_CBWR": "COMPATIBLE",  # torch.linalg, attention; its AVX2 branch differs between vendors
    "OPENBLAS_CORETYPE": "Haswell",  # products of numpy, scipy and (via uar.core.kernels) torch
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # numpy 2.4's names
}
_LIBRARIES = ("numpy", "torch")
_NEEDED = {"avx2", "fma"}


def set_up(
    environment: MutableMapping[str, str], arithmetic: str, threads: int | None
) -> str | None:
    """Set up the arithmetic before libraries are loaded, and torch's kernels in a call afterwards.

    Args:
        environment: this process's variables, which the processes that it starts inherit.
        arithmetic: portable | native, which leaves the choice to each library.
        threads: CPU threads; None leaves the number to the libraries. A different number rounds
            sums differently.

    Returns:
        Why `arithmetic` cannot be set up, as a sentence (then none of it is), or None if it can.
    """
    if threads is not None:
        for library in ("OMP", "MKL", "OPENBLAS"):
            environment[f"{library}_NUM_THREADS"] = str(threads)
        environment["MKL_DYNAMIC"] = "FALSE"  # as many even if there are fewer cores
    if arithmetic != "portable":
        return None
    if reason := unsupported():
        return reason
    if any(environment.get(name) != value for name, value in PORTABLE.items()):
        if loaded := [name for name in _LIBRARIES if name in sys.modules]:
            return (
                f"{' and '.join(loaded)} had been loaded with settings other than those of "
                "arithmetic: portable, which are read only on loading."
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
