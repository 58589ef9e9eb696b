"""UAR, "Unify, Align and Refine": radiology report generation (Li et al., ICCV 2023)."""

__version__ = "0.2.0"
