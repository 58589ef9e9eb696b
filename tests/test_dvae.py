"""The dVAE: its files, its likelihood, its codes and its training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from dall_e import map_pixels

from pipeline.stages import dvae as stage
from tests.conftest import ROOT
from tests.hostile_weights import Bomb
from uar.core.config import DvaeTrainParams, Params
from uar.core.errors import UserError
from uar.networks.pretrained import FeatureNetwork, load_network
from uar.tokens.decoder import (
    TokenDecoder,
    load_decoder,
    logit_laplace,
    reconstruction_quality,
    save_both,
)
from uar.tokens.dvae import (
    Dvae,
    FeatureHead,
    load_dvae,
    perceptual_distance,
    start_codes_by_kmeans,
    train_dvae,
)
from uar.tokens.tokenizer import Tokenizer, codebook_use


@pytest.fixture(scope="module")
def model() -> Dvae:
    """A random dVAE; tests do not change it."""
    torch.manual_seed(0)
    return Dvae(codebook_size=512, hidden=64).eval()


@pytest.fixture(scope="module")
def decoder() -> TokenDecoder:
    """A random decoder of its tokens; tests do not change it."""
    torch.manual_seed(1)
    return TokenDecoder(codebook_size=512, hidden=64, stride=8).eval()


def varied(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """`(count, size, size)` images in [0, 1]: random waves of random contrast."""
    generator = torch.Generator().manual_seed(seed)
    angles, phases, contrasts = torch.rand(3, count, 1, 1, generator=generator)
    y, x = torch.meshgrid(*[torch.linspace(0, 1, size)] * 2, indexing="ij")
    waves = torch.sin(12 * (x * torch.cos(6.3 * angles) + y * torch.sin(6.3 * angles) + phases))
    noise = torch.rand(count, size, size, generator=generator)
    return (0.5 + contrasts * (0.4 * waves + 0.1 * (noise - 0.5))).clamp(0, 1)


def tokens_of(model: Dvae, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.tokenize(pixels)


def test_tokens_are_row_by_row(model: Dvae) -> None:
    pixels = varied(2, 24)
    tokens = tokens_of(model, pixels)
    assert tokens.shape == (2, 9)
    with torch.inference_mode():
        best = model.logits(pixels).argmax(1)  # (N, 3, 3)
    assert tokens[1].tolist() == [int(best[1, i, j]) for i in range(3) for j in range(3)]


@pytest.mark.parametrize("stride", [8, 16])
def test_reconstruction_has_the_size_of_the_grid(stride: int) -> None:
    decoder = TokenDecoder(codebook_size=512, hidden=64, stride=stride).eval()
    with torch.inference_mode():
        pixels = decoder.reconstruct(torch.arange(18).reshape(2, 9))
    assert pixels.shape == (2, 3 * stride, 3 * stride)
    assert pixels.min() >= 0 and pixels.max() <= 1


@pytest.mark.parametrize("together", [True, False])
def test_safetensors_round_trip(
    model: Dvae, decoder: TokenDecoder, tmp_path: Path, together: bool
) -> None:
    """A decoder that learned with the encoder lies in its file, any other in one of its own."""
    encoder_file = other_file = tmp_path / "encoder.safetensors"
    if together:
        save_both(encoder_file, model, decoder)
    else:
        other_file = tmp_path / "decoder.safetensors"
        model.save(encoder_file)
        decoder.save(other_file)
    loaded = load_dvae(encoder_file)
    for module, again in ((model, loaded), (decoder, load_decoder(other_file, loaded))):
        assert again.state_dict().keys() == module.state_dict().keys()
        for name, weight in module.state_dict().items():
            assert torch.equal(again.state_dict()[name], weight), name


def test_openai_pickles_give_the_same_tokens(
    model: Dvae, decoder: TokenDecoder, tmp_path: Path
) -> None:
    torch.save(model.encoder, tmp_path / "encoder.pkl")
    torch.save(decoder.layers, tmp_path / "decoder.pkl")
    loaded = load_dvae(tmp_path / "encoder.pkl")
    assert loaded.codebook_size == 512
    assert loaded.fingerprint() == model.fingerprint()
    pixels = varied(3, 16)
    tokens = tokens_of(model, pixels)
    assert torch.equal(tokens_of(loaded, pixels), tokens)
    again = load_decoder(tmp_path / "decoder.pkl", loaded)
    with torch.inference_mode():
        assert torch.equal(again.reconstruct(tokens), decoder.reconstruct(tokens))


def test_other_sizes_are_read_off_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    Dvae(codebook_size=600, hidden=68).save(path)
    loaded = load_dvae(path)
    assert loaded.codebook_size == 600
    assert tokens_of(loaded, varied(1, 16)).shape == (1, 4)
    TokenDecoder(codebook_size=600, hidden=72, stride=8, first=96).save(path)
    assert load_decoder(path, loaded).reconstruct(torch.arange(4)[None]).shape == (1, 16, 16)


LOADERS: dict[str, Callable[[Path, Tokenizer], Any]] = {
    "encoder": lambda path, _: load_dvae(path),
    "decoder": load_decoder,
}


@pytest.mark.parametrize("half", LOADERS)
def test_a_pickle_of_anything_else_is_refused_and_not_run(
    model: Dvae, tmp_path: Path, half: str
) -> None:
    evil, touched = tmp_path / f"{half}.pkl", tmp_path / "touched"
    torch.save(Bomb(touched), evil)
    with pytest.raises(UserError) as caught:
        LOADERS[half](evil, model)
    assert str(caught.value).startswith(f"{evil}: found no dall_e weights (a pickle of something")
    assert "weights_only" not in str(caught.value)  # torch's advice: load it unchecked
    assert not touched.exists()
    torch.load(evil, weights_only=False)  # the trap itself works
    assert touched.exists()


@pytest.mark.parametrize("half", LOADERS)
def test_a_module_outside_the_allow_list_is_refused(model: Dvae, tmp_path: Path, half: str) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / f"{half}.pkl")
    with pytest.raises(UserError, match=f"{half}.pkl: found no dall_e weights"):
        LOADERS[half](tmp_path / f"{half}.pkl", model)


@pytest.mark.parametrize("half", LOADERS)
@pytest.mark.parametrize("suffix", ["safetensors", "pkl"])
def test_a_file_that_holds_no_weights_is_named(
    model: Dvae, tmp_path: Path, half: str, suffix: str
) -> None:
    path = tmp_path / f"{half}.{suffix}"
    with pytest.raises(UserError, match=f"{path.name} is missing.*dvae.encoder and dvae.decoder"):
        LOADERS[half](path, model)
    path.write_text("no weights")
    with pytest.raises(UserError, match=f"{path.name}: found no dall_e weights .*Expected"):
        LOADERS[half](path, model)


def test_a_decoder_of_another_codebook_is_refused(model: Dvae, tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    TokenDecoder(600, 64, stride=8).save(path)
    with pytest.raises(UserError, match="has a codebook of 600 codes, but the tokenizer's has 512"):
        load_decoder(path, model)


def test_swapped_halves_are_refused(model: Dvae, decoder: TokenDecoder, tmp_path: Path) -> None:
    encoder_file, decoder_file = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    model.save(encoder_file)
    decoder.save(decoder_file)
    with pytest.raises(UserError, match="b.safetensors is not the encoder of a dall_e dVAE"):
        load_dvae(decoder_file)
    with pytest.raises(UserError, match="a.safetensors is not the decoder of a dall_e dVAE"):
        load_decoder(encoder_file, model)


def test_fingerprint_changes_with_the_weights(tmp_path: Path) -> None:
    model = Dvae(codebook_size=512, hidden=64)
    before = model.fingerprint()
    assert len(before) == 64
    save_both(tmp_path / "both.safetensors", model, TokenDecoder(512, 64, stride=8))
    assert load_dvae(tmp_path / "both.safetensors").fingerprint() == before
    with torch.no_grad():
        model.encoder.blocks.input.b[0] += 1e-6
    assert model.fingerprint() != before


def statistics_of(mean: float, log_scale: float, count: int) -> torch.Tensor:
    """What the decoder would say of `count` pixels: one mean and log-scale in all channels."""
    channels = torch.tensor([mean] * 3 + [log_scale] * 3, dtype=torch.float32)
    return channels[None, :, None, None].expand(count, 6, 1, 1)


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, 0.0), (1.3, -1.0), (-0.7, 0.5)])
def test_logit_laplace_is_the_density_of_ramesh_et_al(mean: float, log_scale: float) -> None:
    pixels = torch.linspace(0, 1, 11)
    x = map_pixels(pixels[:, None, None, None]).flatten().double()  # 0.1 .. 0.9
    b = torch.tensor(log_scale, dtype=torch.float64).exp()
    distance = (torch.log(x / (1 - x)) - mean).abs()
    density = 1 / (2 * b * x * (1 - x)) * torch.exp(-distance / b)
    found = logit_laplace(pixels[:, None, None], statistics_of(mean, log_scale, 11))
    assert found.shape == (11, 3, 1, 1)
    torch.testing.assert_close(found[:, 1].flatten().double(), density.log(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, 0.0), (1.3, -1.0), (-0.7, -0.5)])
def test_logit_laplace_integrates_to_one(mean: float, log_scale: float) -> None:
    # map_pixels is x = 0.8 p + 0.1: the pixels that it takes to (0, 1) are (-0.125, 1.125).
    x = (torch.arange(20_000, dtype=torch.float32) + 0.5) / 20_000
    pixels = ((x - 0.1) / 0.8)[:, None, None]
    log_density = logit_laplace(pixels, statistics_of(mean, log_scale, len(x)))[:, 0].flatten()
    assert log_density.double().exp().mean().item() == pytest.approx(1.0, abs=2e-3)


def perplexity(model: Dvae, pixels: torch.Tensor) -> float:
    return codebook_use(tokens_of(model, pixels), model.codebook_size)["code_perplexity"]


def test_spread_codes_put_the_codebook_to_use() -> None:
    torch.manual_seed(0)
    model = Dvae(codebook_size=512, hidden=64).eval()
    pixels = varied(128, 32)  # 2048 cells for 512 codes
    collapsed = perplexity(model, pixels)
    start_codes_by_kmeans(model, pixels, torch.Generator().manual_seed(0))
    assert perplexity(model, pixels) > max(256, 2 * collapsed)
    assert perplexity(model, varied(64, 32, seed=1)) > 128


def test_more_codes_than_cells_are_refused(model: Dvae) -> None:
    with pytest.raises(UserError, match="codebook_size 512 is more than the 36 cells of 4 images"):
        start_codes_by_kmeans(model, varied(4, 24), torch.Generator())


def test_reconstruction_quality_counts_codes(
    model: Dvae, decoder: TokenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
    monkeypatch.setattr(model, "tokenize", lambda pixels: tokens)
    monkeypatch.setattr(decoder, "reconstruct", lambda tokens: torch.full((2, 16, 16), 0.4))
    quality = reconstruction_quality(model, decoder, torch.full((2, 16, 16), 0.5))
    assert quality["mse"] == pytest.approx(0.01)
    assert quality["psnr_db"] == pytest.approx(20.0, abs=1e-3)
    assert quality["codes_used"] == 2
    assert quality["code_perplexity"] == pytest.approx(2.0)


def short_training(
    steps: int, network: FeatureNetwork | None = None, **changes: Any
) -> tuple[Dvae, TokenDecoder, list[dict[str, float]]]:
    torch.manual_seed(0)
    model, decoder = Dvae(codebook_size=512, hidden=64), TokenDecoder(512, 64, stride=8)
    options = {
        "steps": steps,
        "batch_size": 8,
        "crop": 16,
        "learning_rate": 3e-3,
        "encoder_rate": 0.1,
        "temperature": 0.0625,
        "perceptual_weight": 0.0,
        "feature_weight": 0.0,
    }
    params = DvaeTrainParams(**{**options, **changes})
    images = (varied(48, 24) * 255).byte()
    cpu = torch.device("cpu")
    steps_taken = train_dvae(
        model,
        decoder,
        images,
        params=params,
        device=cpu,
        precision="float32",
        seed=0,
        network=network,
    )
    log = [{name: float(value) for name, value in step.items()} for step in steps_taken]
    return model, decoder, log


def test_a_short_training_lowers_the_loss() -> None:
    model, decoder, log = short_training(30)
    assert len(log) == 30
    losses = [step["loss"] for step in log]
    assert sum(losses[-5:]) < sum(losses[:5]) - 1.0
    assert not model.training and not decoder.training
    assert reconstruction_quality(model, decoder, varied(16, 16, seed=2))["codes_used"] > 8


def test_training_follows_its_seed() -> None:
    assert short_training(3)[2] == short_training(3)[2]


def test_the_perceptual_term_is_weighed_and_acts() -> None:
    network = load_network("efficientnet_lite0", None, "dvae.distill").requires_grad_(False)
    _, _, log = short_training(50, network, perceptual_weight=100.0)
    first, last = log[0], log[-1]
    expected = first["reconstruction"] + 100 * first["perceptual"]
    assert first["loss"] == pytest.approx(expected, rel=1e-5)
    # .39 to .49 by the number of threads; .83 where the term has no gradient.
    assert last["perceptual"] < 0.7 * first["perceptual"]


def test_the_term_of_features_is_weighed_and_acts() -> None:
    network = load_network("efficientnet_lite0", None, "dvae.distill").requires_grad_(False)
    _, _, log = short_training(50, network, feature_weight=100.0)
    first = log[0]
    assert set(first) == {"loss", "reconstruction", "features"}
    expected = first["reconstruction"] + 100 * first["features"]
    assert first["loss"] == pytest.approx(expected, rel=1e-5)
    late = sum(step["features"] for step in log[25:]) / 25
    assert late < 0.9 * first["features"]  # .77; 1 where the head learns nothing


@pytest.mark.parametrize("term", ["perceptual", "feature"])
def test_a_weight_of_features_and_a_network_belong_together(term: str) -> None:
    network = load_network("efficientnet_lite0", None, "dvae.distill")
    for weight, given in ((1.0, None), (0.0, network)):
        with pytest.raises(ValueError, match="above 0 must be given together"):
            short_training(1, given, **{f"{term}_weight": weight})


def test_codes_are_told_what_features_they_carry() -> None:
    """The distance is of standardised channels, and its gradient reaches the codes."""
    network = load_network("efficientnet_lite0", None, "dvae.distill").requires_grad_(False)
    head = FeatureHead(codebook_size=8, stride=8, network=network)
    features = network(varied(2, 64))  # (2, 112, 4, 4)
    codes = torch.rand(2, 8, 8, 8).softmax(1).requires_grad_()
    distance = head.distance(codes, features)
    spread = features.std((0, 2, 3), correction=0, keepdim=True)
    wanted = (features - features.mean((0, 2, 3), keepdim=True)) / spread
    expected = 1 - F.cosine_similarity(head.layers(codes), wanted, dim=1).mean()
    assert distance.item() == pytest.approx(expected.item(), abs=1e-3)
    distance.backward()
    assert codes.grad is not None and codes.grad.abs().sum() > 0


def test_perceptual_distance_is_half_the_squared_distance_of_unit_features() -> None:
    network = load_network("efficientnet_lite0", None, "dvae.distill").requires_grad_(False)
    pixels, other = varied(2, 32), varied(2, 32, seed=1)
    a, b = (F.normalize(network(x), dim=1) for x in (pixels, other))
    expected = (a - b).square().sum(1).mean() / 2
    assert torch.allclose(perceptual_distance(network, pixels, other), expected, atol=1e-6)
    assert perceptual_distance(network, pixels, pixels).item() == pytest.approx(0, abs=1e-6)
    other.requires_grad_()
    perceptual_distance(network, pixels, other).backward()
    assert other.grad is not None and other.grad.abs().sum() > 0


@pytest.mark.parametrize("term", ["perceptual", "feature"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_stage_brings_the_network_that_the_term_needs(
    weight: float, term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["dvae"]["train"][f"{term}_weight"] = weight
    given = []
    monkeypatch.setattr(
        stage, "train_dvae", lambda *args, **given_too: given.append(given_too["network"]) or []
    )
    monkeypatch.setattr(stage.Dvae, "save", lambda *halves: None)
    stage._train((varied(2, 64) * 255).byte(), Params.model_validate(raw))
    (network,) = given
    if weight:
        assert network.name == "efficientnet_lite0"
        assert not any(w.requires_grad for w in network.parameters())
    else:
        assert network is None


def test_the_decoder_learns_alone_first() -> None:
    torch.manual_seed(0)
    halves = (Dvae(codebook_size=512, hidden=64), TokenDecoder(512, 64, stride=8))
    stems = ("encoder.blocks.input.w", "layers.blocks.input.w")

    def moved(trained: tuple[torch.nn.Module, ...]) -> list[bool]:
        pairs = zip(stems, halves, trained, strict=True)
        return [not torch.equal(a.state_dict()[stem], b.state_dict()[stem]) for stem, a, b in pairs]

    # round(0.3 * 3) = 1 step alone, then two with the encoder
    assert moved(short_training(3)[:2]) == [True, True]
    assert moved(short_training(1, encoder_rate=0.0)[:2]) == [False, True]
