"""`python -m benchmarks.cra`: CRA once for each distinct id, compared with CRA on every token."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.common import machine, row, time_both
from benchmarks.iu_xray import iu_xray_params, make_batch, make_model
from tests import reference
from uar.core.device import resolve_device

WIDTHS = {192: 4, 256: 8, 512: 8}  # d: heads


def main() -> None:
    """Time 16 studies as in IU X-Ray: 392 visual tokens, 60 words, 2,048 rows of B, float32."""
    device = resolve_device("auto")
    params = iu_xray_params()
    batch = make_batch(params, params.train.batch_size, device)
    visual, words = batch.visual, batch.report[:, :-1]
    print(machine(device))
    for d, heads in WIDTHS.items():
        model = make_model(params, device, d_model=d, heads=heads)
        assert model.unifier is not None and model.aligner is not None
        tables = {model.unifier.visual: visual.flatten(1), model.unifier.text: words}

        def once(model=model) -> None:
            backward(*model.features(visual, words))

        def fused_on_every_token(model=model, tables=tables) -> None:
            backward(*(model.aligner(table(ids)) for table, ids in tables.items()))

        def written_out_on_every_token(model=model) -> None:
            backward(reference.image_features(model, visual), reference.text_features(model, words))

        distinct = sum(len(ids.unique()) for ids in tables.values())
        tokens = sum(ids.numel() for ids in tables.values())
        name = f"CRA forward and backward, d {d}"
        for slow in (written_out_on_every_token, fused_on_every_token):
            how = slow.__name__.removesuffix("_on_every_token").replace("_", " ")
            notes = {"ids": f"{distinct} of {tokens} tokens", "reference's attention": how}
            row(name, time_both(once, slow), **notes)


def backward(image: Tensor, text: Tensor) -> None:
    """Compute gradients of a value to which every feature contributes."""
    (image.square().mean() + text.square().mean()).backward()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
