"""How attention is drawn over films, in every picture: colour and opacity.

The page's script (uar/viewer/page/films.js) computes the same opacity.
"""

import matplotlib
import numpy as np

COLORS = "inferno"  # a colour map of matplotlib
MOST_OPAQUE = 0.8  # the film stays visible


def heatmap_ceiling(attention: np.ndarray) -> float:
    """The attention at which heatmaps reach their last colour; one cell in 200 has more.

    A few cells draw many times the attention of the others, which would otherwise all look alike.
    Returns 1 if there are no cells.
    """
    return float(np.quantile(attention, 0.995, method="higher")) if attention.size else 1.0


def opacity(attention: np.ndarray, ceiling: float) -> np.ndarray:
    """How opaque a heatmap is, 0 to `MOST_OPAQUE`: clear where attention is uniform or less.

    Args:
        attention: in multiples of uniform.
        ceiling: the attention from which it is most opaque.
    """
    share = np.clip((attention - 1) / max(ceiling - 1, 1e-6), 0, 1)
    return MOST_OPAQUE * share**0.5


def color_levels(attention: np.ndarray, ceiling: float) -> np.ndarray:
    """Places on the colour scale, uint8, 255 from `ceiling` up; weak attention still shows.

    Args:
        attention: in multiples of uniform.
        ceiling: the attention from which it has the last colour.
    """
    return (255 * np.minimum(attention / ceiling, 1) ** 0.5).round().astype(np.uint8)


def color_scale() -> np.ndarray:
    """Red, green and blue of each of the 256 levels, `(256, 3)` uint8."""
    scale = matplotlib.colormaps[COLORS](np.arange(256))[:, :3]
    return (scale * 255).round().astype(np.uint8)
