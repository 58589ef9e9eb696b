"""No loader of weights runs what a file holds, writes a file, or advises to switch safety off."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bundles import make_bundle
from tests.hostile_weights import VICTIM, weight_files
from tests.test_chexbert import folder as chexbert_folder  # noqa: F401  # a fixture
from tests.test_extractor import params_of
from tests.test_radgraph import folder as radgraph_folder  # noqa: F401  # a fixture
from uar.bundle.bundle import Bundle
from uar.bundle.index import StudyIndex
from uar.core.errors import UserError
from uar.core.weights import read_weights
from uar.evaluation.clinical.chexbert import WEIGHTS, Chexbert
from uar.evaluation.clinical.radgraph import INSTALLED, RadGraph
from uar.model.checkpoint import Checkpoint
from uar.model.extractor import VisualExtractor
from uar.networks.pretrained import load_network
from uar.tokens.loading import load_tokenizer

CPU = torch.device("cpu")
Trap = tuple[bytes, Callable[[], bool]]  # what a file holds, and whether it has done its worst
SECTION = "dvae.distill"
FILES = (
    "TorchScript", "TorchScript in a ZIP", "TorchScript behind other bytes", "torch.save",
    "torch.save in a state", "torch.save of a ZIP in a ZIP", "a tar in a ZIP", "legacy",
    "legacy in a state", "legacy tar", "pickle", "a patch by a function", "a patch by a class",
)  # fmt: skip


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Trap]]:
    """A folder, and files that would do something there: making them takes longer than a test."""
    folder = tmp_path_factory.mktemp("traps")
    files = weight_files(folder)
    assert tuple(files) == FILES
    return folder, files


@pytest.fixture
def tmp_path(traps: tuple[Path, dict[str, Trap]]) -> Path:
    """That folder, with the file that some would overwrite and nothing else."""
    folder, _ = traps
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    (folder / "victim").write_bytes(VICTIM)
    return folder


@pytest.fixture
def attack(traps: tuple[Path, dict[str, Trap]], tmp_path: Path) -> Callable[[str], Trap]:
    return traps[1].__getitem__


def of_extractor(path: Path) -> None:
    VisualExtractor(params_of("densenet121"), 8).load_pretrained(str(path))


LOADERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "densenet121": ("x.pt", lambda p: load_network("densenet121", p, SECTION)),
    "efficientnet_lite0": ("x.pth", lambda p: load_network("efficientnet_lite0", p, SECTION)),
    "network as safetensors": ("x.safetensors", lambda p: load_network("densenet121", p, SECTION)),
    "extractor": ("x.pt", of_extractor),
    "dVAE's pickle": ("x.pkl", lambda p: load_tokenizer(p)),
    "tokenizer": ("x.safetensors", lambda p: load_tokenizer(p)),
    "checkpoint": ("x.safetensors", Checkpoint.load),
    "checkpoint named .pt": ("x.pt", Checkpoint.load),
    "resume file": ("x.safetensors", lambda p: read_weights(p, "resume file")),
    "index": ("x.safetensors", lambda p: StudyIndex.load(p, "")),
    "bundle": ("x.uar", Bundle.load),
}


def refuses(load: Callable[[], Any], done: Callable[[], bool]) -> None:
    with pytest.raises(UserError) as caught:
        load()
    assert not done()
    assert "weights_only" not in str(caught.value) and "trust_remote" not in str(caught.value)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("file", FILES)
def test_no_loader_runs_a_file(
    file: str, loader: str, attack: Callable[[str], Any], tmp_path: Path
) -> None:
    content, done = attack(file)
    name, load = LOADERS[loader]
    (tmp_path / name).write_bytes(content)
    refuses(lambda: load(tmp_path / name), done)


@pytest.mark.parametrize("file", FILES)
def test_chexbert_runs_no_file(
    file: str,
    attack: Callable[[str], Any],
    chexbert_folder: Path,  # noqa: F811
) -> None:
    content, done = attack(file)
    (chexbert_folder / WEIGHTS).write_bytes(content)
    refuses(lambda: Chexbert(chexbert_folder, CPU), done)


@pytest.mark.skipif(not INSTALLED, reason="needs the radgraph extra")
@pytest.mark.parametrize("file", FILES)
def test_radgraph_runs_no_file(
    file: str,
    attack: Callable[[str], Any],
    radgraph_folder: Path,  # noqa: F811
) -> None:
    content, done = attack(file)
    (radgraph_folder / "weights.th").write_bytes(content)
    refuses(lambda: RadGraph(radgraph_folder, CPU), done)


@pytest.mark.parametrize("file", FILES)
def test_a_resnets_folder_is_read_as_safetensors_alone(
    file: str, attack: Callable[[str], Any], tmp_path: Path
) -> None:
    content, done = attack(file)
    extractor = VisualExtractor(params_of("resnet"), 8)
    extractor.network.model.config.save_pretrained(tmp_path / "resnet")
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / "resnet" / name).write_bytes(content)
        refuses(lambda: extractor.load_pretrained(str(tmp_path / "resnet")), done)
        (tmp_path / "resnet" / name).unlink()


@pytest.mark.parametrize("part", ["model", "encoder", "decoder", "index"])
@pytest.mark.parametrize("file", ["TorchScript", "torch.save"])
def test_no_part_of_a_bundle_is_run(
    file: str, part: str, attack: Callable[[str], Any], tmp_path: Path, tiny_raw: dict[str, Any]
) -> None:
    """The manifest has its hash."""
    content, done = attack(file)
    path = tmp_path / "x.uar"
    make_bundle(tiny_raw, index=True).save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[f"{part}.safetensors"] = content
    manifest = json.loads(parts["manifest.json"])
    manifest["parts"][f"{part}.safetensors"] = hashlib.sha256(content).hexdigest()
    parts["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    refuses(lambda: Bundle.load(path), done)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", ["TorchScript", "torch.save", "legacy", "a patch by a function"])
def test_the_traps_themselves_work(file: str, attack: Callable[[str], Any], tmp_path: Path) -> None:
    """Loaded as torch does unasked for care, each does what it is for."""
    content, done = attack(file)
    (tmp_path / "x.pt").write_bytes(content)
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert done()
