"""RadEval in its own environment: what it is given, what comes back, what it cannot do."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from pipeline import paths
from pipeline.tools import radeval
from pipeline.tools.radeval import METRICS, VERSION, RadEval, make_environment
from uar.core.errors import UserError
from uar.evaluation.predictions import Prediction
from uar.evaluation.signatures import Setup, radeval_signatures

PACKAGE = """
from importlib.metadata import version
class RadEval:
    def __init__(self, metrics, show_progress):
        [self.metric] = metrics
        if self.metric == "f1chexbert":
            raise OSError("no chexbert.pth\\nin the cache")
    def __call__(self, refs, hyps):
        return {self.metric: sum(a == b for a, b in zip(refs, hyps)) / len(refs)}
"""
MODEL = [
    Prediction(
        "1", "Heart is large.\nNo edema.", "heart large", "heart is large . no edema .", 0.0
    ),
    Prediction("2", "Clear lungs.", "clear lungs .", "an effusion .", 0.0),
]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes an environment whose radeval is PACKAGE, of some version."""
    monkeypatch.chdir(tmp_path)

    def make(version: str = VERSION) -> Path:
        site = tmp_path / "site"
        (site / f"radeval-{version}.dist-info").mkdir(parents=True)
        (site / f"radeval-{version}.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: radeval\nVersion: {version}\n"
        )
        (site / "radeval.py").write_text(PACKAGE)
        python = paths.RADEVAL / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        (paths.RADEVAL / "made-for-uar").touch()
        return site

    return make


def test_it_is_given_raw_references_and_prose(environment: Callable[..., Path]) -> None:
    environment()
    found = RadEval.open("bleu, rouge,bleu").score({"model": MODEL, "constant_report": MODEL[1:]})
    assert found == {
        "model": {"bleu": 0.5, "rouge": 0.5},
        "constant_report": {"bleu": 0, "rouge": 0},
    }
    [line] = radeval_signatures(
        {"bleu": 0.5}, MODEL, setup=Setup("", "beam:3"), radeval=VERSION
    ).values()
    assert line.startswith("radeval,bleu|refs:raw|text:beam:3,prose|n:2|data:")
    assert line.endswith(f"|v:radeval{VERSION}")


def test_absent_weights_are_named_with_their_metric(environment: Callable[..., Path]) -> None:
    environment()
    with pytest.raises(UserError) as caught:
        RadEval.open("rouge,f1chexbert").score({"model": MODEL})
    said = str(caught.value)
    assert "RadEval's f1chexbert cannot be computed: OSError: no chexbert.pth in the cache" in said
    assert "StanfordAIMI/RRG_scorers (chexbert.pth) and bert-base-uncased" in said


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("bleu,blue", "no metric 'blue'"),
        ("crimson", "no metric 'crimson'"),
        (",", "no metric is named"),
    ],
)
def test_what_is_not_offered_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"--radeval: {found}; available: bleu, rouge"):
        RadEval.open(names)
    assert not paths.RADEVAL.exists()


def test_another_version_or_a_broken_environment_is_an_error(
    environment: Callable[..., Path],
) -> None:
    site = environment("9.9")
    with pytest.raises(UserError, match=rf"holds RadEval 9.9, not {VERSION}; remove"):
        RadEval.open("bleu").score({"model": MODEL})
    (site / "radeval.py").write_text("import nothing_of_this_name")
    with pytest.raises(UserError, match="RadEval failed(.|\n)*nothing_of_this_name"):
        RadEval.open("bleu").score({"model": MODEL})


def test_an_environment_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip stands in for the index; its package imports itself by a name of other letters."""
    asked: list[list[str]] = []
    folder = tmp_path / "made"

    def run(command: list[str | Path], what: str) -> None:
        asked.append(list(map(str, command)))
        if what == "pip":
            package = folder / "lib" / "python3.11" / "site-packages" / "radeval" / "sub"
            package.mkdir(parents=True)
            (package / "a.py").write_text("from RadEval.metrics.b import c  # RadEval")
            (package / "b.py").write_text('    device: Union[str, torch.device] = "cuda",\n')
            if len(asked) > 2:
                raise UserError("pip failed")

    monkeypatch.setattr(radeval, "_run", run)
    make_environment(folder)
    assert f"radeval=={VERSION}" in asked[1]
    assert "--constraint" in asked[1]
    [named], [device] = folder.rglob("a.py"), folder.rglob("b.py")
    assert named.read_text() == "from radeval.metrics.b import c  # RadEval"
    assert '"cuda" if torch.cuda.is_available() else "cpu",' in device.read_text()
    assert (folder / "made-for-uar").read_text() == f"{VERSION}\n"
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="pip failed"):
        make_environment(folder)
    assert not folder.exists()


def test_the_environment_pins_what_it_installs() -> None:
    lines = (Path(radeval.__file__).parent / "radeval.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned["radeval"] == VERSION
    assert pinned["numpy"].startswith("1.")  # its spaCy is built for that
    assert len(METRICS) == 11


# ---- the package itself, in an environment that the variable names


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `.radeval`, and caches of the hub of its own."""
    made = os.environ.get("UAR_RADEVAL")
    if not made:
        pytest.skip("UAR_RADEVAL names no environment that `score --radeval` made")
    environment = Path(made).resolve()
    monkeypatch.chdir(tmp_path)
    paths.RADEVAL.symlink_to(environment)
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def test_radeval_reads_our_texts(real: Path) -> None:
    same = [Prediction("1", "The heart is large.", "", "the heart is large .", 0.0)]
    found = RadEval.open("bleu,rouge").score({"model": same, "other": MODEL})
    assert found["model"]["bleu"] == pytest.approx(1, abs=1e-3)
    assert found["model"]["rougeL"] == 1
    assert 0 < found["other"]["rouge1"] < 1


def test_radeval_reads_local_weights_of_its_format(real: Path) -> None:
    """A tiny random CheXbert and BERT in the hub's cache, as its files are fetched there."""
    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=512,
    )  # fmt: skip

    def cached(cache: Path, repository: str) -> Path:
        folder = cache / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
        return folder / "snapshots" / ("0" * 40)

    with pytest.raises(UserError, match="f1chexbert cannot be computed"):
        RadEval.open("f1chexbert").score({"model": MODEL})
    bert = cached(real / "hub", "bert-base-uncased")
    (bert / "config.json").write_text(json.dumps(config.to_dict()))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [
        *special,
        "heart",
        "is",
        "large",
        "no",
        "edema",
        "clear",
        "lungs",
        "an",
        "effusion",
        ".",
    ]
    (bert / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    (bert / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    torch.manual_seed(0)
    state = {f"module.bert.{k}": v for k, v in BertModel(config).state_dict().items()}
    for i in range(14):
        head = nn.Linear(16, 4 if i < 13 else 2)
        state |= {f"module.linear_heads.{i}.{k}": v for k, v in head.state_dict().items()}
    weights = cached(real / "chexbert", "StanfordAIMI/RRG_scorers")
    torch.save({"model_state_dict": state}, weights / "chexbert.pth")
    found = RadEval.open("f1chexbert").score({"model": MODEL})["model"]
    assert found
    assert all(0 <= value <= 1 for value in found.values())
