"""`python -m benchmarks.scale`: the cost of MIMIC-CXR at the paper's size, counted and measured.

FLOPs are counted (matrix products and convolutions) on one image and on two and four studies; bytes
follow from the shapes. The rates are measured on this machine's device, or given:

    python -m benchmarks.scale                            # this machine
    python -m benchmarks.scale --tflops 200 --devices 8   # a plan for others
    python -m benchmarks.scale --memory                   # peak memory of each stage's data path
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
import typer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import machine, seconds
from benchmarks.iu_xray import iu_xray_params, make_batch, make_model, tokens_per_image
from benchmarks.memory import measure_all
from uar.core.config import Params
from uar.core.device import autocast, resolve_device
from uar.core.geometry import token_stride
from uar.data.views import Views
from uar.tokens.dvae import Dvae
from uar.training.objective import Objective

FILMS = 473_057  # of MIMIC-CXR, as the paper counts them
STUDIES = 270_000  # for training, likewise


def counted(work: Callable[[], object]) -> int:
    """FLOPs of matrix products and convolutions, including those of attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def encoding(params: Params, device: torch.device) -> tuple[float, Callable[[], float]]:
    """FLOPs of one view in the dVAE's encoder, and a function that measures a batch's FLOP/s."""
    model = Dvae(params.dvae.codebook_size, params.dvae.hidden).to(device).eval()
    pixels = torch.rand(1, params.image.crop, params.image.crop, device=device)

    @torch.inference_mode()
    def encode(views: int) -> None:
        with autocast(device, "auto"):
            model.tokenize(pixels.expand(views, -1, -1))

    flops = counted(lambda: encode(1))
    views = 64 if device.type == "cuda" else 2
    return flops, lambda: views * flops / least_seconds(lambda: encode(views))


def training(params: Params, device: torch.device) -> tuple[float, Callable[[], float]]:
    """FLOPs per study of a training step, and a function that measures the FLOP/s of steps."""
    model = make_model(params, device)
    objective = Objective.of_stage(params.train, with_mask=True)

    def step(studies: int) -> None:
        batch = make_batch(params, studies, device)
        with autocast(device, "auto"):
            output = model(*batch.inputs)
        objective.of_output(output, batch)[0].backward()

    few, more, batch = counted(lambda: step(2)), counted(lambda: step(4)), params.train.batch_size
    whole = few + (more - few) / 2 * (batch - 2)  # what a step does once is not counted twice
    studies, flops = (batch, whole) if device.type == "cuda" else (4, more)
    return whole / batch, lambda: flops / least_seconds(lambda: step(studies))


def kept_for_backward(params: Params) -> int:
    """Bytes that a training step keeps for its backward pass, float32, attention written out.

    Counted from shapes (torch's `meta` device); bfloat16 and fused attention keep less.
    """
    shapes, kept = torch.device("meta"), {}
    model = make_model(params, shapes)
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that no other takes its address
        return tensor

    batch = make_batch(params, params.train.batch_size, shapes)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(*batch.inputs)
        output.logits.log_softmax(-1).sum()
    return sum(storage.nbytes() for storage in kept.values())


def least_seconds(work: Callable[[], object]) -> float:
    """Seconds of the fastest of three calls, after one to warm up."""
    return min([seconds(work) for _ in range(4)][1:])


def main(
    tflops: Annotated[
        float | None, typer.Option(help="Sustained TFLOP/s of a device, in place of measuring.")
    ] = None,
    devices: Annotated[int, typer.Option(help="Devices that share the work.")] = 1,
    efficiency: Annotated[float, typer.Option(help="Share of N devices' rate kept by N.")] = 0.9,
    memory: Annotated[bool, typer.Option(help="Measure the memory of data paths instead.")] = False,
) -> None:
    """Print FLOPs, bytes and hours of each stage."""
    if memory:
        measure_all()
        return
    device, params = resolve_device("auto"), iu_xray_params("mimic_cxr")
    per_view, measure_encoding = encoding(params, device)
    per_study, measure_training = training(params, device)
    if tflops is not None:
        encoding_rate = training_rate = tflops * 1e12
        print(f"{devices} x {tflops:g} TFLOP/s sustained, as given\n")
    else:
        encoding_rate, training_rate = measure_encoding(), measure_training()
        print(f"{devices} x {machine(device)}, measured:")
        print(f"{encoding_rate:.3g} FLOP/s encoding, {training_rate:.3g} FLOP/s training\n")
    rate = devices * (efficiency if devices > 1 else 1.0)
    size, crop, crops = params.image.size, params.image.crop, params.tokenize.crops
    parameters = sum(p.numel() for p in make_model(params, torch.device("cpu")).parameters())

    print("| what | count | FLOP each | FLOP | hours |\n|---|---|---|---|---|")

    def line(what: str, count: float, each: float, per_second: float) -> None:
        hours = count * each / (per_second * rate) / 3600
        print(f"| {what} | {count:,.0f} | {each:.3g} | {count * each:.3g} | {hours:,.2f} |")

    views = Views(
        kind="crops",
        crops=crops,
        crop=crop,
        size=size,
        stride=token_stride(params.dvae.source, params.dvae.distill.network),
        seed=0,
    ).encoded
    line(f"tokenize, `crops`, K = {crops}: views", FILMS * views, per_view, encoding_rate)
    larger = (size / crop) ** 2  # the grid's single encoding, of the whole packed image
    every = (
        (size - crop) // token_stride(params.dvae.source, params.dvae.distill.network) + 1
    ) ** 2
    line(f"tokenize, `grid`, K to {every}: views", FILMS * (1 + larger), per_view, encoding_rate)
    for name, stage in (("one", params.train.stage_one), ("two", params.train.stage_two)):
        label = f"train stage {name}, {stage.epochs} epochs: studies"
        line(label, STUDIES * stage.epochs, per_study, training_rate)

    print("\n| file | shape | GB |\n|---|---|---|")
    for name, shape, item in (
        ("data/images.npy", (FILMS, size, size), 1),
        ("data/tokens.npy", (FILMS, 1 + crops, tokens_per_image(params)), 2),
        ("data/tokens.npy, `grid`, all", (FILMS, 1 + every, tokens_per_image(params)), 2),
        ("models/stage_two.safetensors", (parameters,), 4),
        (".resume/train_stage_two: weights, AdamW, best", (parameters, 4), 4),
    ):
        gigabytes = torch.Size(shape).numel() * item / 1e9
        print(f"| {name} | {shape} | {gigabytes:.2f} |")

    states = 4 * 4 * parameters / 1e9  # weights, gradients and AdamW's two moments
    print("\n| memory of a device in training, float32 | GB |\n|---|---|")
    print(f"| weights, gradients, AdamW | {states:.2f} |")
    share = -(-params.train.batch_size // devices)
    of_share = params.model_copy(
        update={"train": params.train.model_copy(update={"batch_size": share})}
    )
    print(f"| kept for backward, {share} studies | {kept_for_backward(of_share) / 1e9:.2f} |")


if __name__ == "__main__":
    typer.run(main)
