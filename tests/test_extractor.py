"""What rows without tokens see, and what they look with: the same views, a pretrained network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import ROOT, override
from tests.test_training import GREEDY, REPORTS, VOCABULARY, T
from uar.core.config import ExtractorParams, ModelParams, Params, StageParams
from uar.core.distributed import launch
from uar.core.errors import UserError
from uar.core.geometry import NETWORKS, cells_along, pool_side, token_stride
from uar.core.params_file import parse_params
from uar.core.provenance import Scratch
from uar.core.unfinished import UnfinishedArray
from uar.data.batches import MapSource, PixelSource, Studies, TokenSource
from uar.data.views import Views
from uar.model.extractor import VisualExtractor
from uar.model.uar import UAR, ModelSizes
from uar.networks.efficientnet_lite0 import EfficientNetLite0
from uar.networks.network import FeatureNetwork, build_network
from uar.networks.pretrained import load_network
from uar.networks.resnet import ResNet
from uar.tokens.cache import PackedImages, TokenEncoding, tokenize_images
from uar.tokens.tokenizer import Tokenizer
from uar.training.maps import Films, make_maps
from uar.training.objective import Objective
from uar.training.optimizer import make_optimizer
from uar.training.stage import TrainingConfig, TrainingData, train_stage
from uar.training.validation import Validation

LITE0 = "efficientnet_lite0"
VIEWS = Views(kind="crops", crops=3, crop=16, size=24, stride=2, seed=5)


def params_of(network: str = LITE0, weights: str = "none", **changes: Any) -> ExtractorParams:
    raw = {"network": network, "weights": weights, "depths": [1, 1, 1, 1], "fine_tune": True}
    return ExtractorParams.model_validate(raw | changes)


# ---- the same views


class Corners(Tokenizer):
    """A token is the gray value of its top left pixel, and so shows what was seen."""

    stride = 2
    codebook_size: ClassVar[int] = 65536

    def encode(self, pixels: Tensor) -> Tensor:
        return (pixels[:, :: self.stride, :: self.stride] * 65535).round().long()

    def encoder_state(self) -> dict[str, Tensor]:
        return {}


def sources(folder: Path, views: Views, draw_whole: bool) -> tuple[TokenSource, PixelSource]:
    """Both, of the same random films of which all are in training."""
    films = np.random.default_rng(0).integers(0, 256, (16, views.size, views.size), np.uint8)
    np.save(folder / "images.npy", films)
    info = tokenize_images(
        TokenEncoding(launch("cpu"), Corners(), batch_size=8, precision="float32"),
        PackedImages(folder / "images.npy", np.ones(16, bool), views),
        folder / "tokens.npy",
        Scratch(folder / "scratch", {}),
    )
    assert info.made_of == views
    tokens = TokenSource(np.load(folder / "tokens.npy"), draw_whole)
    return tokens, PixelSource(films, info.made_of, draw_whole)


@pytest.mark.parametrize("kind", ["crops", "grid"])
def test_pixels_are_of_the_views_that_tokens_are_made_of(tmp_path: Path, kind: Any) -> None:
    tokens, pixels = sources(tmp_path, replace(VIEWS, kind=kind), draw_whole=True)
    rows = np.arange(16).reshape(8, 2)
    seen = set()
    for view in range(4):
        drawn = torch.full((8, 2), view)
        made = Corners().tokenize(pixels.views(rows, drawn).flatten(0, 1)).unflatten(0, (8, 2))
        assert torch.equal(made, tokens.views(rows, drawn))
        seen.add(made[0, 0].sum().item())
    assert len(seen) == 4
    assert torch.equal(pixels.whole(rows), pixels.views(rows, torch.zeros(8, 2, dtype=torch.long)))


@pytest.mark.parametrize("crops", [0, 3])
@pytest.mark.parametrize("draw_whole", [True, False])
def test_an_epoch_shows_every_row_of_a_table_the_same_views(
    tmp_path: Path, crops: int, draw_whole: bool
) -> None:
    """Study by study and view by view, with the same seed."""
    both = sources(tmp_path, replace(VIEWS, crops=crops), draw_whole)
    rows = np.arange(16).reshape(8, 2)
    epochs = [
        list(
            Studies(source, rows, REPORTS, vocabulary=VOCABULARY, max_length=T).training_batches(
                3, torch.Generator().manual_seed(1)
            )
        )
        for source in both
    ]
    assert len(epochs[0]) == 3
    for of_tokens, of_pixels in zip(*epochs, strict=True):
        assert torch.equal(of_tokens[0].report, of_pixels[0].report)
        shown = of_pixels[0].visual
        made = Corners().tokenize(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])
        assert torch.equal(made, of_tokens[0].visual)


@pytest.mark.parametrize(("draw_whole", "first"), [(True, 0), (False, 1)])
def test_whole_views_are_drawn_if_asked_for(tmp_path: Path, draw_whole: bool, first: int) -> None:
    for source in sources(tmp_path, VIEWS, draw_whole):
        drawn = source.draw((4000,), torch.Generator().manual_seed(0))
        share = torch.bincount(drawn, minlength=4) / 4000
        expected = torch.tensor([0.0] * first + [1 / (4 - first)] * (4 - first))
        torch.testing.assert_close(share, expected, rtol=0, atol=0.03)


# ---- the network


def films(count: int = 3, side: int = 64, seed: int = 0) -> Tensor:
    coarse = torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (side, side), mode="bilinear")


@torch.inference_mode()
def test_efficientnet_lite0_brings_its_imagenet_weights() -> None:
    extractor = VisualExtractor(params_of(), 24).eval()
    extractor.load_pretrained("imagenet")
    network = load_network(LITE0, None, "x")
    pixels = films()
    embedded = extractor(pixels)
    assert embedded.shape == (3, 2 * 16, 24)
    for view in range(2):  # each view's cells row by row, one view after the other
        cells = network(pixels[:, view]).permute(0, 2, 3, 1).reshape(3, 16, 112)
        expected = extractor.project(F.layer_norm(cells, (112,)))
        torch.testing.assert_close(embedded[:, 16 * view : 16 * view + 16], expected)


@pytest.mark.parametrize("network", ["efficientnet_lite0", "densenet121"])
def test_weights_by_path(tmp_path: Path, network: str) -> None:
    torch.manual_seed(3)
    state = build_network(network).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    extractor = VisualExtractor(params_of(network), 8)
    extractor.load_pretrained(str(tmp_path / "weights.safetensors"))
    for name, weight in extractor.network.state_dict().items():
        assert torch.equal(weight, state[name])


def test_other_weights_are_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for network in ("efficientnet_lite0", "densenet121"):
        extractor = VisualExtractor(params_of(network), 8)
        with pytest.raises(UserError, match=r"other.safetensors.*Set model.extractor.network to"):
            extractor.load_pretrained(str(tmp_path / "other.safetensors"))
        with pytest.raises(UserError, match=r"model.extractor.weights names the weight file"):
            extractor.load_pretrained(str(tmp_path / "gone.safetensors"))
    with pytest.raises(UserError, match=r"model.extractor.weights: .*gone cannot be loaded"):
        VisualExtractor(params_of("resnet"), 8).load_pretrained(str(tmp_path / "gone"))


def test_a_resnet_by_path(tmp_path: Path) -> None:
    one, other = (VisualExtractor(params_of("resnet"), 8).eval() for _ in range(2))
    assert isinstance(one.network, ResNet)
    one.network.model.save_pretrained(tmp_path)
    other.load_pretrained(str(tmp_path))
    pixels = films()[0]
    with torch.inference_mode():
        assert torch.equal(one.network(pixels), other.network(pixels))
    with pytest.raises(UserError, match=r"whose blocks are those of model.extractor.depths"):
        VisualExtractor(params_of("resnet", depths=[1, 2, 1, 1]), 8).load_pretrained(str(tmp_path))


@pytest.mark.parametrize("network", ["resnet", "efficientnet_lite0", "densenet121"])
@pytest.mark.parametrize("crop", [32, 96, 112, 224])
def test_the_parameters_know_the_cells(network: str, crop: int) -> None:
    params = params_of(network)
    extractor = VisualExtractor(params, 8).eval()
    with torch.inference_mode():
        cells = extractor(torch.rand(1, 1, crop, crop)).shape[1]
    assert cells_along(crop, network) ** 2 == cells
    assert NETWORKS[network].channels == extractor.norm.normalized_shape[0]


def model_of(params: ModelParams, side: int) -> UAR:
    """A model that reads two films of `side` pixels, with 11 words and reports of 7."""
    length = 2 * cells_along(side, params.extractor.network) ** 2
    return UAR(params, ModelSizes(vocabulary=11, codebook=0, visual_length=length, max_length=7))


@pytest.mark.parametrize("network", ["resnet", "efficientnet_lite0", "densenet121"])
def test_a_frozen_network_stays_as_it_is(tiny_params: Params, network: str) -> None:
    frozen = params_of(network, fine_tune=False)
    params = tiny_params.model.model_copy(update={"lsu": False, "extractor": frozen})
    model = model_of(params, 64)
    optimizer = make_optimizer(model, tiny_params.train, learning_rate=0.1)
    before = {name: w.clone() for name, w in model.extractor.network.state_dict().items()}
    model.train()
    report = torch.randint(4, 11, (3, 8))
    model(films(), report).logits.sum().backward()
    optimizer.step()
    assert before
    for name, weight in model.extractor.network.state_dict().items():
        assert torch.equal(weight, before[name]), name  # batch statistics too
    project = model.extractor.project.weight
    assert any(project is weight for group in optimizer.param_groups for weight in group["params"])
    assert project.grad is not None
    assert project.grad.abs().sum() > 0


@torch.inference_mode()
def test_a_frozen_network_looks_in_float32() -> None:
    """bfloat16 would change its map by a tenth of a deviation."""
    for fine_tune in (True, False):
        extractor = VisualExtractor(params_of(fine_tune=fine_tune), 8).eval()
        exact = extractor.maps(films()[:, 0])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(extractor.maps(films()[:, 0]), exact) != fine_tune


# ---- maps made once


def frozen_model(params: Params, seed: int = 0) -> UAR:
    torch.manual_seed(seed)
    extractor = params_of(fine_tune=False)
    changed = params.model.model_copy(
        update={"lsu": False, "tir": "none", "extractor": extractor, "dropout": 0.0}
    )
    return UAR(
        changed,
        ModelSizes(vocabulary=len(VOCABULARY), codebook=0, visual_length=2 * 4, max_length=T),
    )


def frozen_source(draw_whole: bool = True) -> PixelSource:
    """Sixteen random films, smooth enough that their crops differ little."""
    packed = (films(8, 40, seed=2).flatten(0, 1) * 255).to(torch.uint8).numpy()
    return PixelSource(packed, replace(VIEWS, crop=32, size=40), draw_whole)


def made(folder: Path, extractor: VisualExtractor, **identity: Any) -> MapSource:
    """Maps of studies 0 to 4 for training and of 5 and 6 for validation; 7 is of the test split."""
    films = Films(frozen_source(), np.arange(10), np.arange(10, 14))
    return make_maps(launch("cpu"), extractor, films, Scratch(folder / "maps", identity))


def test_maps_are_those_of_the_pixels(tmp_path: Path, tiny_params: Params) -> None:
    model = frozen_model(tiny_params)
    source, maps = frozen_source(), made(tmp_path, model.extractor)
    assert maps.maps.dtype == np.float16
    assert maps.maps.shape == (10 * 4 + 4, 112, 2, 2)
    train, val = np.arange(10).reshape(5, 2), np.arange(10, 14).reshape(2, 2)
    assert torch.equal(
        maps.draw((400, 2), torch.Generator().manual_seed(1)),
        source.draw((400, 2), torch.Generator().manual_seed(1)),
    )
    with torch.inference_mode():
        pairs = [(source.whole(val), maps.whole(val)), (source.whole(train), maps.whole(train))]
        for view in range(4):
            drawn = torch.full((5, 2), view)
            pairs.append((source.views(train, drawn), maps.views(train, drawn)))
        seen = []
        for pixels, found in pairs:
            expected = model.extractor.maps(pixels.flatten(0, 1))
            half = expected.half().unflatten(0, pixels.shape[:2])
            assert torch.equal(found, half)
            both = model.extractor(found), model.extractor(pixels)
            torch.testing.assert_close(*both, rtol=2**-8, atol=2**-8)
            seen.append(found.float().sum().item())
    assert len(set(seen)) == 5  # view 0 is the whole one
    with pytest.raises(IndexError):
        maps.whole(np.array([[14, 15]]))


def test_a_crop_of_one_image_is_the_one_among_others() -> None:
    source, drawn = frozen_source(), torch.tensor([2, 0, 1])
    together = source.views(np.array([3, 4, 5]), drawn)
    for i, row in enumerate((3, 4, 5)):
        alone = source.views(np.array([row]), drawn[i : i + 1])
        assert torch.equal(alone, together[i : i + 1])


def test_training_on_maps_is_training_on_pixels(tmp_path: Path, tiny_params: Params) -> None:
    last: dict[str, float] = {}  # epoch
    ends: list[tuple[dict[str, float], dict[str, Tensor]]] = []
    for cached in (True, False):
        model = frozen_model(tiny_params)
        source = made(tmp_path, model.extractor) if cached else frozen_source()
        studies, held_out = (
            Studies(
                source,
                rows.reshape(-1, 2),
                REPORTS[: len(rows) // 2],
                vocabulary=VOCABULARY,
                max_length=T,
            )
            for rows in (np.arange(10), np.arange(10, 14))
        )
        data = TrainingData(
            studies=studies,
            validation=Validation(held_out, VOCABULARY, GREEDY, launch("cpu")),
            encoder_sha256=None,
        )
        config = TrainingConfig(
            number=1,
            stage=StageParams(epochs=3, learning_rate=3e-3),
            objective=Objective.of_stage(tiny_params.train, with_mask=False),
            params=tiny_params.train,
            precision="float32",
            from_trained=False,
        )
        trained = train_stage(
            launch("cpu"),
            model,
            data=data,
            config=config,
            scratch=Scratch(tmp_path / f"scratch {cached}", {}),
            on_epoch=lambda epoch, values: last.update(values),
        )
        assert trained is not None
        ends.append((dict(last), model.state_dict()))
    assert len(last) > 3
    (cached_log, cached_weights), (log, weights) = ends
    for name in ("train/loss", "val/cross_entropy", "val/image_gain"):
        assert cached_log[name] == pytest.approx(log[name], rel=0.01, abs=0.01), name
    assert cached_log["train/loss"] != log["train/loss"]  # float16 it was
    for name, weight in weights.items():
        if name.startswith("extractor.network."):
            assert torch.equal(cached_weights[name], weight)


def test_maps_that_are_there_are_not_made_again(
    tmp_path: Path, tiny_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(tmp_path, frozen_model(tiny_params).extractor, code="a")
    written: list[int] = []
    write = UnfinishedArray.write

    def counting(self: UnfinishedArray, number: int, values: np.ndarray) -> None:
        written.append(number)
        write(self, number, values)

    monkeypatch.setattr(UnfinishedArray, "write", counting)
    model = frozen_model(tiny_params)
    with torch.no_grad():
        model.extractor.project.weight.zero_()  # comes after the maps
    again = made(tmp_path, model.extractor, code="a")
    assert written == []
    np.testing.assert_array_equal(again.maps, first.maps)
    made(tmp_path, model.extractor, code="b")
    assert written == [0, 1]
    made(tmp_path, frozen_model(tiny_params, seed=1).extractor, code="b")
    assert written == [0, 1, 0, 1]


# ---- a learning rate of its own


@pytest.mark.parametrize("network", ["resnet", "efficientnet_lite0", "densenet121"])
def test_the_network_takes_steps_of_its_own_rate(tiny_params: Params, network: str) -> None:
    params = tiny_params.model.model_copy(
        update={"lsu": False, "tir": "static", "extractor": params_of(network)}
    )
    torch.manual_seed(0)
    model = model_of(params, 64)
    train = tiny_params.train.model_copy(
        update={"extractor_learning_rate": 1e-5, "weight_decay": 0.0}
    )
    optimizer = make_optimizer(model, train, learning_rate=1e-2)
    before = {name: w.detach().clone() for name, w in model.named_parameters()}
    model.train()(films(), torch.randint(4, 11, (3, 8))).logits.square().sum().backward()
    optimizer.step()  # AdamW's first step is the rate itself
    for name, weight in model.named_parameters():
        step = (weight.detach() - before[name]).abs().max().item()
        if weight.grad is not None and weight.grad.abs().max() > 1e-5:
            own = name.startswith("extractor.network.")
            assert step == pytest.approx(1e-5 if own else 1e-2, rel=0.1), name


@pytest.mark.parametrize("fine_tune", [True, False])
@pytest.mark.parametrize("rate", [None, 1e-5])
def test_every_parameter_is_in_one_group(
    tiny_params: Params, rate: float | None, fine_tune: bool
) -> None:
    params = tiny_params.model.model_copy(
        update={"lsu": False, "tir": "static", "extractor": params_of(fine_tune=fine_tune)}
    )
    model = UAR(params, ModelSizes(vocabulary=11, codebook=0, visual_length=2 * 16, max_length=7))
    train = tiny_params.train.model_copy(update={"extractor_learning_rate": rate})
    groups = make_optimizer(model, train, learning_rate=1e-2).param_groups
    found = [id(weight) for group in groups for weight in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(weight) for weight in model.parameters() if weight.requires_grad}
    names = {id(weight): name for name, weight in model.named_parameters()}
    for group in groups:
        for weight in group["params"]:
            own = rate is not None and names[id(weight)].startswith("extractor.network.")
            assert group["lr"] == (1e-5 if own else 1e-2)
            decays = weight.ndim > 1 and names[id(weight)].endswith("weight")
            decays = decays and ".refiner." not in names[id(weight)]
            assert (group["weight_decay"] > 0) == decays, names[id(weight)]


# ---- parameters


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"network": "densenet121", "weights": "imagenet"}, "has no weights imagenet"),
        ({"network": "vgg"}, "model.extractor.network: found 'vgg'. Input should be 'resnet'"),
        ({"network": LITE0}, "image.crop 56 is not a multiple of 16, the side in pixels of a cell"),
    ],
)
def test_parameters_that_do_not_fit(
    raw_params: dict[str, Any], changes: dict[str, Any], found: str
) -> None:
    override(raw_params, "model.lsu", False)
    override(raw_params, "dvae.source", "train")
    override(raw_params, "image.crop", 56)
    for key, value in changes.items():
        override(raw_params, f"model.extractor.{key}", value)
    with pytest.raises(UserError, match=found):
        parse_params(raw_params, "params.yaml")


@pytest.mark.parametrize(
    ("network", "pool", "encoded"),
    [("resnet", 3, 49), (LITE0, 2, 49), (LITE0, 7, 4), (LITE0, 1, 196), (LITE0, 3, None)],
)
def test_cells_are_pooled_as_tokens_are(
    raw_params: dict[str, Any], network: str, pool: int, encoded: int | None
) -> None:
    """A ResNet's 7 x 7 cells of a film of 224 pixels are as few as pooled tokens already."""
    for key, value in {
        "image.size": 256, "image.crop": 224, "model.lsu": False, "model.visual_pool": pool,
        "model.extractor.network": network, "model.extractor.depths": [1, 1, 1, 1],
    }.items():  # fmt: skip
        override(raw_params, key, value)
    if encoded is None:
        with pytest.raises(UserError, match="visual_pool 3 does not divide the 14 cells along"):
            parse_params(raw_params, "params.yaml")
        return
    params = parse_params(raw_params, "params.yaml").model
    model = model_of(params, 224).eval()
    with torch.inference_mode():
        image = model.extractor(torch.rand(1, 2, 224, 224))
        memory, _ = model._encode(image, 2, None)
    assert memory.shape[1] == 2 * encoded


def test_rows_of_the_small_preset_read_equally_many_cells(raw_params: dict[str, Any]) -> None:
    todo = [(raw_params, yaml.safe_load((ROOT / "presets/iu_xray_small.yaml").read_text()))]
    while todo:
        into, values = todo.pop()
        for key, value in values.items():
            if isinstance(value, dict):
                todo.append((into[key], value))
            else:
                into[key] = value
    params = parse_params(raw_params, "iu_xray_small")
    stride = token_stride(params.dvae.source, params.dvae.distill.network)
    network = params.model.extractor.network
    assert cells_along(params.image.crop, network) == params.image.crop // stride == 14
    assert [pool_side(params.model.visual_pool, lsu, network) for lsu in (True, False)] == [2, 2]


def test_a_network_of_another_stride_is_one_registration(
    raw_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stride is the registration's, in what params.yaml may say and in the model's lengths."""
    fine = NETWORKS["efficientnet_lite0"]._replace(stride=8, implementation=f"{__name__}:Fine")
    monkeypatch.setitem(NETWORKS, "efficientnet_lite0", fine)
    raw_params["image"] |= {"size": 64, "crop": 56}
    raw_params["model"] |= {"lsu": False, "visual_pool": 7}
    raw_params["model"]["extractor"] |= {"network": "efficientnet_lite0", "weights": "none"}
    raw_params["dvae"]["source"] = "train"
    params = parse_params(raw_params, "params.yaml")
    cells = VisualExtractor(params.model.extractor, 8)(torch.rand(1, 1, 56, 56)).shape[1]
    assert cells == cells_along(56, "efficientnet_lite0") ** 2 == 49
    monkeypatch.setitem(NETWORKS, "efficientnet_lite0", fine._replace(stride=16))
    with pytest.raises(UserError, match="not a multiple of 16, the side in pixels of a cell"):
        parse_params(raw_params, "params.yaml")


class Fine(FeatureNetwork):
    """Means of squares of 8 pixels."""

    name = "efficientnet_lite0"

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels, 8).unsqueeze(1).expand(-1, 112, -1, -1)

    assert EfficientNetLite0.name == LITE0
