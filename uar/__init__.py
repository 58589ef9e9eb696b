"""UAR, "Unify, Align and Refine": radiology report generation (Li et al., ICCV 2023)."""
