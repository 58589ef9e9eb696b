"""`python -m benchmarks.generation`: IU X-Ray's test split, beam 3, every report 60 words long.

Weights are random and the end token is ruled out, so that both ways write all 60 words: no study
leaves early. The reference writes only a few reports; its time is scaled to the split's size.
"""

from __future__ import annotations

import torch

from benchmarks.common import Comparison, machine, row, time_both
from benchmarks.iu_xray import iu_xray_params, make_model, make_visual
from tests import reference
from uar.core.device import resolve_device
from uar.core.special_words import EOS
from uar.inference.decoding import Generated, generate

STUDIES = 590
REFERENCE_STUDIES = 8


def main() -> None:
    """Measure the whole split at the sizes of `iu_xray_small`, in float32."""
    device = resolve_device("auto")
    params = iu_xray_params()
    model = make_model(params, device).eval()
    with torch.no_grad():
        model.head.bias[EOS] = -1e4
    visual = make_visual(params, STUDIES, device)
    few = visual[:REFERENCE_STUDIES]
    beams = params.decode.beam_size
    written: list[Generated] = []
    expected: list[Generated] = []

    def fast() -> None:
        tables = model.tables()
        written[:] = [
            report
            for part in visual.split(params.decode.batch_size)
            for report in generate(model, part, beams, tables=tables)
        ]

    def slow() -> None:
        expected[:] = reference.generate(model, few, beams)

    print(machine(device))
    times = time_both(fast, slow, rounds=2, warmup=0)
    same = sum(a.ids == b.ids for a, b in zip(written, expected, strict=False))
    row(
        f"{STUDIES} reports, beam {beams}, 60 words",
        Comparison(times.fast, times.slow * STUDIES / REFERENCE_STUDIES),
        reports_per_second=f"{STUDIES / times.fast:.1f}",
        reference=f"measured on {REFERENCE_STUDIES} studies and scaled",
        same_text=f"{same} of {REFERENCE_STUDIES}",
    )


if __name__ == "__main__":
    main()
