"""Fixtures that several test files share."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, settings
from selenium import webdriver

from uar.core.arithmetic import set_up
from uar.core.config import DatasetParams, DecodeParams, ModelParams, Params
from uar.core.params_file import parse_params
from uar.model.uar import UAR, ModelSizes

if TYPE_CHECKING:
    from uar.evaluation.clinical.labeller import Labeller

ROOT = Path(__file__).parents[1]
CLASS_NAME = re.compile(r"\(\w+(Error|Exception|Warning)\b")  # no message may give one as reason

# Files with the slowest tests: started last, one would run alone while other processes are idle.
LONGEST = (
    "test_pipeline.py",
    "test_training.py",
    "test_distributed.py",
    "test_self_critical.py",
    "test_push.py",
    "test_dvae.py",
    "test_arithmetic.py",
    "test_shared_tokens.py",
    "test_bundle.py",
    "test_package.py",
    "test_layout.py",
    "test_web.py",
    "test_iu_xray.py",
)

set_up(os.environ, "portable", 1)  # torch's kernels; the rest is in tests/__init__.py

# Fuzz tests: the same 200 inputs each time, or many new ones with HYPOTHESIS_PROFILE=thorough.
settings.register_profile(
    "default",
    max_examples=200,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough", settings.get_profile("default"), max_examples=10_000, derandomize=False
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files in `LONGEST` first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def committed(path: str) -> str:
    """A file as committed in HEAD: the recorded results, whatever has been run here since.

    Outside a git checkout the test is skipped; in CI it fails.
    """
    done = subprocess.run(
        ["git", "show", f"HEAD:./{path}"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        reason = f"no git checkout holds {path}: {done.stderr.strip()}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return done.stdout


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let a test draw the same random numbers whatever has been run before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def messages(caplog: pytest.LogCaptureFixture) -> None:
    """Let `caplog` hold everything that the commands log, not only warnings."""
    caplog.set_level(logging.INFO)


def run_code(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, in `folder`, that can import this project."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def override(raw: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a nested key, given as section.key."""
    *sections, key = dotted.split(".")
    for section in sections:
        raw = raw[section]
    raw[key] = value


@cache
def read_params() -> dict[str, Any]:
    """params.yaml as it is in the project, as nested dicts; copy it before you change it."""
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def dataset_params(name: str, root: Path, **changes: Any) -> DatasetParams:
    """The section `dataset` of params.yaml, with these values."""
    chosen = {**read_params()["dataset"], "name": name, "root": root, **changes}
    if chosen["layout"] == "physionet" and "split" not in changes:
        chosen["split"] = "official"
    return DatasetParams.model_validate(chosen)


def decode_params(**changes: Any) -> DecodeParams:
    """The section `decode` of params.yaml, with these values."""
    return DecodeParams.model_validate({**read_params()["decode"], "choose": "beam", **changes})


@pytest.fixture
def raw_params() -> dict[str, Any]:
    """params.yaml as it is in the project, as nested dicts."""
    return deepcopy(read_params())


@cache
def labeller() -> Labeller:
    """The rules, loaded once, as it takes a second; patched in where a command would load them."""
    from uar.evaluation.clinical.labeller import Labeller

    return Labeller()


def uncounted(*_: object) -> float:
    """A made-up number of FLOPs per study: counting them takes as long as a tiny training."""
    return 1e6


TINY = {
    "device": "cpu",
    "dataset.demo.studies": 20,
    "dataset.demo.film_size": 64,
    "image.size": 32,
    "image.crop": 24,
    "report.max_length": 16,
    "vocabulary.min_count": 1,
    "dvae.source": "train",
    "dvae.train.steps": 4,
    "dvae.train.batch_size": 4,
    "dvae.train.crop": 16,
    "tokenize.crops": 2,
    "model.token_embedding": "random",
    "model.d_model": 16,
    "model.heads": 2,
    "model.basis_size": 32,
    "model.encoder_layers": 1,
    "model.decoder_layers": 2,
    "model.d_ff": 32,
    "model.extractor.network": "resnet",
    "model.extractor.weights": "none",
    "model.extractor.depths": [1, 1, 1, 1],
    "model.extractor.fine_tune": True,
    "train.stage_one.epochs": 2,
    "train.stage_two.epochs": 2,
    "train.batch_size": 7,
    "evaluate.constant_candidates": 3,
    # The paper's settings, and reports in every epoch, whatever the demo's recipe is.
    "model.word_dropout": 0.0,
    "train.smoothness": 0.0,
    "train.mask_reduction": "sum",
    "train.mask_learning_rate": None,
    "train.select_by": "CIDEr",
    "train.report_every": 1,
}


@pytest.fixture
def iu_xray() -> Path:
    """The real IU X-Ray in the R2Gen packaging; the test is skipped where it is absent."""
    root = Path(os.environ.get("UAR_DATA", ROOT.parent / "shared" / "data")) / "iu_xray"
    if not (root / "annotation.json").is_file():
        pytest.skip(f"no {root}/annotation.json: set UAR_DATA to the folder that holds iu_xray/")
    return root


@pytest.fixture
def tiny_raw(raw_params: dict[str, Any]) -> dict[str, Any]:
    """params.yaml with sizes that train in about a second."""
    for key, value in TINY.items():
        override(raw_params, key, value)
    return raw_params


@pytest.fixture
def tiny_params(tiny_raw: dict[str, Any]) -> Params:
    """`tiny_raw`, validated."""
    return parse_params(tiny_raw, "tiny")


@pytest.fixture
def make_model(tiny_raw: dict[str, Any]) -> Callable[..., UAR]:
    """Build an untrained tiny model, in evaluation mode, in which every part affects the output.

    A study has two images of 4 tokens, or without LSU of 32 x 32 pixels (one ResNet cell each).
    """

    def make(seed: int = 0, **changes: Any) -> UAR:
        torch.manual_seed(seed)
        params = ModelParams.model_validate({**tiny_raw["model"], **changes})
        length = 8 if params.lsu else 2
        model = UAR(
            params,
            ModelSizes(vocabulary=11, codebook=12, visual_length=length, max_length=7, findings=3),
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith("extractor.network"):
                    continue
                if ".refiner." in name:  # k = 1,000 amplifies small changes
                    parameter.add_(torch.randn_like(parameter) * 0.02)
                elif "norm" in name or name.endswith(("gain", "bias")):
                    parameter.add_(torch.randn_like(parameter) * 0.3)
            for layer in model.decoder.layers:  # reports differ between studies and positions
                layer.visual_attention.output.weight.mul_(8)
                layer.visual_attention.value.weight.mul_(3)
            if model.unifier is None:
                model.extractor.project.weight.mul_(6)
            if model.findings is not None:  # studies differ in what is found
                model.findings.classify.weight.mul_(6)
            model.head.weight.mul_(6)
        return model.eval()

    return make


@pytest.fixture
def make_visual() -> Callable[..., torch.Tensor]:
    """Build random visual input for a model from `make_model`."""

    def make(model: UAR, studies: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        if model.unifier is None:
            films = torch.rand(studies, 2, 32, 32, generator=generator)
            return films * torch.rand(studies, 2, 1, 1, generator=generator)
        return torch.randint(model.sizes.codebook, (studies, 2, 4), generator=generator)

    return make


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium; without it the tests are skipped, and in CI they fail."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium and chromedriver")
    with start_browser() as started:
        yield started


def start_browser() -> webdriver.Chrome:
    """Start a headless Chromium that keeps its logs."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def serious_faults(page: webdriver.Chrome) -> list[str]:
    """What axe-core finds serious or critical on the open page, as `rule: element`.

    Without axe-core (`npm install --no-save axe-core`) the test is skipped, and in CI it fails.
    """
    script = ROOT / "node_modules/axe-core/axe.min.js"
    if not script.is_file():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no node_modules/axe-core")
    page.execute_script(script.read_text(encoding="utf-8"))
    found = page.execute_async_script(
        "axe.run().then(arguments[arguments.length - 1], (e) => arguments[0](String(e)))"
    )
    return [
        f"{rule['id']}: {node['html']}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
