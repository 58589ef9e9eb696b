"""`python -m benchmarks.same_words`: whether fast decoding writes the same words as plain decoding.

Run it in a project with a trained model that reads tokens. Every report of a split is written as
`evaluate` does it and by `tests/reference.py`, which decodes each prefix anew for each word. The
two sum in different orders, so beams whose scores agree to the last digits may be ranked in another
order: the table gives the largest difference in log-probability where words differ. Nothing is
scored, whichever the split.
"""

from __future__ import annotations

import time
from typing import Annotated, get_args

import torch
import typer

from benchmarks.common import Comparison, machine, row
from pipeline import paths
from pipeline.inputs import Inputs
from tests import reference
from uar.core.device import resolve_device
from uar.core.params_file import load_params
from uar.core.progress import progress
from uar.data.study import Split
from uar.inference.decoding import Generated, generate_as

AT_ONCE = 8  # studies that the reference writes at once


def main(
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    first: Annotated[int | None, typer.Option(help="Only so many studies.")] = None,
) -> None:
    """Write a split's reports both ways and count the identical ones."""
    if split not in get_args(Split):
        raise typer.BadParameter(f"{split}: one of {', '.join(get_args(Split))}")
    params = load_params(paths.PARAMS)
    if not params.model.lsu or params.dataset.missing_view == "mask":
        raise typer.BadParameter("the reference reads tokens, of studies with all their films")
    decode, inputs = params.decode, Inputs(params)
    _, model = inputs.trained(paths.STAGE_THREE)
    studies = inputs.studies(split)
    device = model.head.weight.device
    visual = torch.cat([batch.visual for batch in studies.batches(decode.batch_size)])[:first]
    tables = model.tables()
    written: list[Generated] = []
    expected: list[Generated] = []
    start = time.perf_counter()
    for part in visual.to(device).split(decode.batch_size):
        written += generate_as(decode, model, part, tables=tables)
    between = time.perf_counter()
    parts = visual.to(device).split(AT_ONCE)
    for part in progress(parts, "reference", len(parts), "batch"):
        expected += reference.generate(
            model, part, decode.beam_size, decode.length_penalty, decode.guidance
        )
    took = Comparison(between - start, time.perf_counter() - between)
    other = [(a, b) for a, b in zip(written, expected, strict=True) if a.ids != b.ids]
    apart = max((abs(a.log_probability - b.log_probability) for a, b in other), default=0.0)
    print(machine(resolve_device(params.device)))
    row(
        f"{params.dataset.name}, {len(written)} reports of {split}",
        took,
        same_words=f"{len(written) - len(other)} of {len(written)}",
        largest_difference_in_log_probability_of_others=f"{apart:.1e}",
    )


if __name__ == "__main__":
    typer.run(main)
