"""`python -m benchmarks.r2gen CLONE`: UAR against R2Gen's own modules, at the paper's size.

CLONE is a clone of https://github.com/zhjohnchan/R2Gen. Its Transformer with relational memory
(Chen et al. 2020) is run as it stands there, with its own defaults: d 512, 3 + 3 layers, 8 heads,
beam 3, reports of up to 60 words. Both start from the output of a visual encoder: R2Gen from
features `(N, L, 2048)`, UAR from tokens `(N, V, L/V)`. Weights are random, and the end token is
ruled out, so that both write 60 words. This project contains none of R2Gen's code.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated
from unittest.mock import patch

import torch
import typer
from torch import Tensor, nn

from benchmarks.common import Comparison, machine, row, time_both
from benchmarks.generation import STUDIES
from benchmarks.iu_xray import (
    VOCABULARY,
    iu_xray_params,
    make_batch,
    make_model,
    make_visual,
    tokens_per_image,
)
from benchmarks.step import PRECISIONS, training_step
from uar.core.config import Params
from uar.core.device import resolve_device
from uar.core.special_words import EOS, PAD
from uar.inference.decoding import generate

CROPS = {98: 56, 392: 112}  # L, the cells of both views together -> side of the crop in pixels
DEFAULTS = {  # of its main_train.py
    "d_model": 512,
    "d_ff": 512,
    "d_vf": 2048,
    "num_heads": 8,
    "num_layers": 3,
    "dropout": 0.1,
    "bos_idx": 0,
    "eos_idx": 0,
    "pad_idx": 0,
    "use_bn": 0,
    "drop_prob_lm": 0.5,
    "rm_num_slots": 3,
    "rm_num_heads": 8,
    "rm_d_model": 512,
    "max_seq_length": 60,
    "sample_method": "beam_search",
    "beam_size": 3,
    "temperature": 1.0,
    "sample_n": 1,
    "group_size": 1,
    "output_logsoftmax": 1,
    "decoding_constraint": 0,
    "block_trigrams": 1,
}


def load_r2gen(clone: Path, device: torch.device) -> tuple[nn.Module, Callable[..., Tensor]]:
    """R2Gen's `EncoderDecoder` with random weights, and its `compute_loss`.

    Raises:
        typer.BadParameter: this folder is no clone of R2Gen.
    """
    if not (clone / "modules/encoder_decoder.py").is_file():
        raise typer.BadParameter(f"{clone} has no modules/encoder_decoder.py: clone R2Gen there")
    sys.path.insert(0, str(clone.resolve()))
    sys.modules.setdefault("cv2", ModuleType("cv2"))  # OpenCV, which it imports for drawing
    words = SimpleNamespace(idx2token=dict.fromkeys(range(1, VOCABULARY)))
    torch.manual_seed(0)
    network = importlib.import_module("modules.encoder_decoder").EncoderDecoder
    model = network(SimpleNamespace(**DEFAULTS), words).to(device)
    return model, importlib.import_module("modules.loss").compute_loss


def compare_generation(
    theirs: nn.Module, params: Params, studies: int, device: torch.device
) -> None:
    """Compare writing reports; R2Gen writes only `studies`, in batches of 16 as in its scripts."""
    ours = make_model(params, device).eval()
    theirs.eval()
    with torch.no_grad():
        ours.head.bias[EOS] = -1e4
        theirs.logit.bias[DEFAULTS["eos_idx"]] = -1e4
    visual = make_visual(params, STUDIES, device)
    cells = visual[0].numel()
    features = torch.randn(studies, cells, DEFAULTS["d_vf"], device=device)

    def fast() -> None:
        tables = ours.tables()
        for part in visual.split(params.decode.batch_size):
            generate(ours, part, DEFAULTS["beam_size"], tables=tables)

    @torch.no_grad()
    def slow() -> None:
        for part in features.split(params.train.batch_size):
            theirs(part.mean(1), part, mode="sample")

    times = time_both(fast, slow, rounds=2, warmup=0)
    row(
        f"{STUDIES} reports, {cells} cells, against R2Gen",
        Comparison(times.fast, times.slow * STUDIES / studies),
        reports_per_second=f"{STUDIES / times.fast:.1f}",
        reference=f"measured on {studies} studies and scaled",
    )


def compare_steps(
    theirs: nn.Module, loss: Callable[..., Tensor], params: Params, device: torch.device
) -> None:
    """Compare one training step on a batch of 16; R2Gen's is in float32, as in its scripts."""
    theirs.train()
    batch = make_batch(params, params.train.batch_size, device)
    cells = batch.visual[0].numel()
    features = torch.randn(len(batch.report), cells, DEFAULTS["d_vf"], device=device)
    mask = (batch.report != PAD).float()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-4, weight_decay=5e-5, amsgrad=True)

    def slow() -> None:
        output = theirs(features.mean(1), features, batch.report, mode="forward")
        optimizer.zero_grad()
        loss(output, batch.report, mask).backward()
        nn.utils.clip_grad_value_(theirs.parameters(), 0.1)
        optimizer.step()

    for precision in PRECISIONS:
        times = time_both(training_step(params, device, precision), slow, rounds=3)
        row(f"training step, {precision}, {cells} cells, against R2Gen's in float32", times)


def main(
    clone: Annotated[Path, typer.Argument(help="A clone of R2Gen.")],
    studies: Annotated[int, typer.Option(help="Studies that R2Gen writes reports of.")] = 16,
) -> None:
    """Compare generation and a training step at 98 cells (R2Gen's) and at 392 (the paper's)."""
    device = resolve_device("auto")
    print(machine(device))
    theirs, loss = load_r2gen(clone, device)
    for cells, crop in CROPS.items():
        params = iu_xray_params("iu_xray")
        params = params.model_copy(update={"image": params.image.model_copy(update={"crop": crop})})
        assert params.dataset.images_per_study * tokens_per_image(params) == cells
        with patch.object(Tensor, "cuda", lambda tensor: tensor.to(device)):  # in its beam search
            compare_generation(theirs, params, studies, device)
        compare_steps(theirs, loss, params, device)


if __name__ == "__main__":
    typer.run(main)
