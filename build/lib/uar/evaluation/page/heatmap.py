"""The colour scale of attention drawn over films."""

import numpy as np


def heatmap_ceiling(attention: np.ndarray) -> float:
    """The attention from which heatmaps show their last colour: one cell in 200 has more.

    A few cells draw many times the attention of the others, which would else all look alike.
    """
    return float(np.quantile(attention, 0.995, method="higher"))
