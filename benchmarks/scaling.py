"""`python -m benchmarks.scaling`: how time grows with tokens, beams, basis size and studies.

Writes benchmarks/scaling.csv and draws benchmarks/scaling.png from it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from benchmarks.common import machine, seconds
from benchmarks.iu_xray import (
    iu_xray_params,
    make_batch,
    make_model,
    make_visual,
    tokens_per_image,
)
from benchmarks.step import training_step
from uar.core.config import Params
from uar.core.device import resolve_device
from uar.core.files import atomic_write
from uar.core.geometry import token_stride
from uar.core.special_words import EOS
from uar.inference.decoding import generate

HERE = Path(__file__).parent
ROUNDS = 2  # the fastest counts
CELLS = (4, 8, 14, 20)  # along a side of a view: L = 32, 128, 392, 800 for two images
BEAMS = (1, 2, 3, 5, 8)
BASIS_SIZES = (512, 1024, 2048, 4096, 8192)
STUDIES = (16, 32, 64, 128, 256)


def by_tokens(params: Params, device: torch.device) -> dict[int, float]:
    """Seconds of a training step by L."""
    times = {}
    stride = token_stride(params.dvae.source, params.dvae.distill.network)
    for cells in CELLS:
        crop = cells * stride
        image = params.image.model_copy(update={"crop": crop, "size": max(crop, 128)})
        changed = params.model_copy(update={"image": image})
        length = params.dataset.images_per_study * tokens_per_image(changed)
        times[length] = fastest(training_step(changed, device, params.precision))
    return times


def by_basis_size(params: Params, device: torch.device) -> dict[int, float]:
    """Seconds of CRA on a batch, forward and backward, by rows of B."""
    batch = make_batch(params, params.train.batch_size, device)
    times = {}
    for size in BASIS_SIZES:
        model = make_model(params, device, basis_size=size)

        def cra(model=model) -> None:
            image, text = model.features(batch.visual, batch.report[:, :-1])
            (image.square().mean() + text.square().mean()).backward()

        times[size] = fastest(cra)
    return times


def by_beams(params: Params, device: torch.device) -> dict[int, float]:
    """Seconds to write 32 reports of 60 words, by number of beams."""
    return {beams: written(params, device, 32, beams) for beams in BEAMS}


def by_studies(params: Params, device: torch.device) -> dict[int, float]:
    """Seconds to write reports of 60 words with the preset's beams, by number of studies."""
    return {
        studies: written(params, device, studies, params.decode.beam_size) for studies in STUDIES
    }


def written(params: Params, device: torch.device, studies: int, beams: int) -> float:
    """Seconds to write every study's report, including the time for the tables."""
    model = make_model(params, device).eval()
    with torch.no_grad():
        model.head.bias[EOS] = -1e4
    batches = make_visual(params, studies, device).split(params.decode.batch_size)

    def write() -> None:
        tables = model.tables()
        for visual in batches:
            generate(model, visual, beams, tables=tables)

    return fastest(write)


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of `ROUNDS` calls, after an untimed one."""
    work()
    return min(seconds(work) for _ in range(ROUNDS))


PANELS = {  # panel: (what is timed, what grows, how it is measured)
    "tokens": ("training step", "visual tokens L", by_tokens),
    "basis": ("CRA, forward and backward", "rows of the basis", by_basis_size),
    "beams": ("32 reports of 60 words", "beams", by_beams),
    "studies": ("reports of 60 words, beam 3", "studies", by_studies),
}


def draw(table: pd.DataFrame, title: str, path: Path) -> None:
    """Draw one panel for each quantity that grows."""
    figure = Figure(figsize=(14, 3.4), layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    for axis, (name, (what, grows, _)) in zip(axes, PANELS.items(), strict=True):
        points = table[table["panel"] == name]
        axis.plot(points["size"], points["seconds"], marker="o")
        axis.set(title=what, xlabel=grows, ylabel="seconds", xlim=(0, None), ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=9)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main() -> None:
    """Measure all four and draw them."""
    device = resolve_device("auto")
    params = iu_xray_params()
    rows = [
        {"panel": name, "size": size, "seconds": time}
        for name, (_, _, measure) in PANELS.items()
        for size, time in measure(params, device).items()
    ]
    table = pd.DataFrame(rows)
    with atomic_write(HERE / "scaling.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
    draw(table, machine(device), HERE / "scaling.png")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
