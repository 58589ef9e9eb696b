"""The colour scale of attention drawn over films."""

import numpy as np


def heatmap_ceiling(attention: np.ndarray) -> float:
    """The attention from which heatmaps show their last colour: one cell in 200 has more.

    A few cells draw many times the attention of the others, which would else all look alike.
    """
    return float(np.quantile(attention, 0.995, method="higher"))


def opacity(attention: np.ndarray, ceiling: float) -> np.ndarray:
    """How opaque a heatmap is, 0 to 0.8: clear where attention is uniform or less.

    Args:
        attention: in multiples of uniform.
        ceiling: attention from which on it is most opaque.
    """
    share = np.clip((attention - 1) / max(ceiling - 1, 1e-6), 0, 1)
    return 0.8 * share**0.5
