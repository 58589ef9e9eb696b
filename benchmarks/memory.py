"""`python -m benchmarks.scale --memory`: each stage's data path on invented data like MIMIC's.

Each study has one frontal film of 32 pixels, random tokens of full size and a report of 90 random
words; splits have the official shares. A data path is what a stage holds of a data set: networks
are left out, or replaced by a stand-in. Each runs in a process of its own, which prints its peak.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.lib.format import open_memmap
from torch import Tensor

from benchmarks.iu_xray import ROOT
from benchmarks.tokenization import random_films
from pipeline import paths
from pipeline.inputs import Inputs, fitted_views, image_rows, training_films
from pipeline.stages.evaluate import nearest_by_tokens
from pipeline.tools.use import merge
from uar.core.distributed import launch
from uar.core.files import write_table
from uar.core.params_file import load_params
from uar.core.provenance import Scratch
from uar.data.study import Dataset, Study
from uar.data.views import Views
from uar.evaluation.clinical.labels import FINDINGS
from uar.tokens.cache import PackedImages, TokenCacheInfo, TokenEncoding
from uar.tokens.cache import tokenize_images as tokenize_packed
from uar.tokens.tokenizer import Tokenizer

COUNTS = (20_000, 80_000, 320_000)
HELD_OUT = (0.008, 0.014)  # shares of all studies: validation, test
WORDS, REPORT, FILM = 5_000, 90, 32
CODES, LENGTH, VIEWS = 8192, 196, 4
_PIECE = 10_000  # studies invented at once


class Brightness(Tokenizer):
    """A stand-in for a network: a token is the mean of its cell."""

    stride = 8
    codebook_size = CODES

    def encode(self, pixels: Tensor) -> Tensor:
        """Tokens `(N, H/8, W/8)`."""
        cells = torch.nn.functional.avg_pool2d(pixels.unsqueeze(1), self.stride).squeeze(1)
        return (cells * (CODES - 1)).long()

    def encoder_state(self) -> dict[str, Tensor]:
        """Empty: nothing is learned."""
        return {}


def invent(folder: Path, studies: int) -> None:
    """Write the files that the stages read, piece by piece."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    merge(raw, yaml.safe_load((ROOT / "presets/mimic_cxr.yaml").read_text(encoding="utf-8")))
    (folder / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    for name in ("data", "models/dvae"):
        (folder / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    random_films(folder / paths.IMAGES, studies, FILM)
    shape = (studies, VIEWS, LENGTH)
    tokens = open_memmap(folder / paths.TOKENS, mode="w+", dtype=np.uint16, shape=shape)
    for start in range(0, studies, _PIECE):
        piece = tokens[start : start + _PIECE]
        piece[:] = generator.integers(0, CODES, piece.shape, dtype=np.uint16)
    info = TokenCacheInfo("0", CODES, 128, 112, shape, "uint16", "crops", 0, "cpu", "float32", "",
                          1.0, None)  # fmt: skip
    info.save(folder / paths.TOKENS_INFO)
    vocabulary = np.array([f"word{number}" for number in range(WORDS)])
    reports = [
        " ".join(vocabulary[row]) + " ."
        for start in range(0, studies, _PIECE)
        for row in generator.integers(WORDS, size=(min(_PIECE, studies - start), REPORT))
    ]
    shares = (1 - sum(HELD_OUT), *HELD_OUT)
    table = pd.DataFrame(
        {
            "study_id": [f"s{number}" for number in range(studies)],
            "split": generator.choice(["train", "val", "test"], studies, p=shares),
            "report": reports,
            "views": [["frontal"]] * studies,
        }
    )
    write_table(folder / paths.STUDIES, table)
    table["cleaned"] = table["report"]
    found = generator.random((studies, len(FINDINGS))) < 0.1
    table["findings"] = [[FINDINGS[i] for i in np.flatnonzero(row)] for row in found]
    write_table(folder / paths.REPORTS, table)


def ingest() -> None:
    """Write the study table; films are packed one by one (see `benchmarks.ingest`)."""
    texts = pd.read_parquet(paths.STUDIES)
    studies = [
        Study(row.study_id, row.split, row.report, (f"p/{row.study_id}.jpg",), ("frontal",))
        for row in texts.itertuples()
    ]
    write_table(Path("ingested.parquet"), Dataset(studies, Path()).table())


def preprocess() -> None:
    """Run the stage with a labeller that finds nothing."""
    import pipeline.stages.preprocess as stage
    from uar.evaluation.clinical import labeller
    from uar.evaluation.clinical.labels import OBSERVATIONS

    class Blind:
        def label(self, reports: list[str]) -> np.ndarray:
            return np.zeros((sum(1 for _ in reports), len(OBSERVATIONS)), int)

    labeller.Labeller = Blind  # type: ignore[assignment,misc]
    paths.REPORTS = Path("preprocessed.parquet")
    stage.preprocess()


def vocabulary() -> None:
    """Run the stage."""
    from pipeline.stages.vocabulary import vocabulary as stage

    stage()


def dvae() -> None:
    """Read the films to which codes are fitted, and batches of those on which a dVAE is trained."""
    params, generator = load_params(paths.PARAMS), torch.Generator().manual_seed(0)
    fitted_views(params, generator)
    films = training_films(params)
    for _ in range(params.dvae.train.steps):
        films[torch.randint(len(films), (params.dvae.train.batch_size,), generator=generator)]


def tokenize() -> None:
    """Tokenize every film's whole view with the stand-in."""
    count = len(np.load(paths.IMAGES, mmap_mode="r"))
    in_training = np.zeros(count, bool)
    in_training[image_rows(load_params(paths.PARAMS), "train").ravel()] = True
    views = Views(kind="crops", crops=0, crop=FILM, size=FILM, stride=Brightness.stride, seed=0)
    tokenize_packed(
        TokenEncoding(launch("cpu"), Brightness(), batch_size=128, precision="float32"),
        PackedImages(paths.IMAGES, in_training, views),
        Path("tokenized.npy"),
        Scratch(Path("unfinished"), {}),
    )


def cheap_fits() -> None:
    """Reduce fits to one penalty and two folds, which need as much memory as six and five."""
    from uar.analysis import probe
    from uar.inference import judge, logistic

    logistic.FOLDS = 2
    for module in (probe, judge, logistic):
        module.PENALTIES = (0.1,)


def probe() -> None:
    """Run the stage with cheap fits."""
    from pipeline.stages.probe import probe as stage

    cheap_fits()
    stage()


def judge() -> None:
    """Run the stage with cheap fits."""
    from pipeline.stages.judge import judge as stage

    cheap_fits()
    stage()


def train() -> None:
    """Read the batches of one epoch and those of the validation split."""
    params = load_params(paths.PARAMS)
    inputs = Inputs(params)
    studies, generator = inputs.studies("train"), torch.Generator().manual_seed(0)
    for _ in studies.training_batches(params.train.batch_size, generator):
        pass
    for _ in inputs.studies("val").batches(params.decode.batch_size):
        pass


def evaluate() -> None:
    """Find the nearest training study by tokens for a few of the test studies."""
    inputs = Inputs(load_params(paths.PARAMS))
    studies = inputs.studies("test")
    studies.rows = studies.rows[:64]
    nearest_by_tokens(studies, inputs.studies("train"))


STAGES: dict[str, Callable[[], None]] = {
    "ingest: study table": ingest,
    "preprocess": preprocess,
    "vocabulary": vocabulary,
    "dvae": dvae,
    "tokenize": tokenize,
    "probe": probe,
    "judge": judge,
    "train_stage_one, _two": train,
    "evaluate": evaluate,
}


def measure(stage: str) -> None:
    """Run a data path in this process; print peak and mapped MiB, and CPU seconds (Linux)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, 2))
    before = time.process_time()
    STAGES[stage]()
    spent = time.process_time() - before
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak, mapped = (
        int(re.search(rf"{name}:\s*(\d+) kB", status)[1]) / 1024 for name in ("VmHWM", "RssFile")
    )
    print(f"MEASURED {peak:.0f} {mapped:.0f} {spent:.1f}")


def measure_all(counts: tuple[int, ...] = COUNTS) -> None:
    """Print a row per stage: peak and CPU seconds at each count, and the slope of the last step."""
    found: dict[str, list[tuple[float, ...]]] = {stage: [] for stage in STAGES}
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            invent(Path(name), count)
            for stage in ("vocabulary", *(s for s in STAGES if s != "vocabulary")):
                code = f"from benchmarks.memory import measure; measure({stage!r})"
                environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                told = subprocess.run(
                    [sys.executable, "-c", code],
                    cwd=name, env=environment, check=True, capture_output=True, text=True,
                ).stdout  # fmt: skip
                line = next(x for x in told.splitlines() if x.startswith("MEASURED"))
                found[stage].append(tuple(map(float, line.split()[1:])))
                print(f"{count:,} {stage}: {line}", file=sys.stderr, flush=True)
    heads = " | ".join(f"{count:,} studies" for count in counts)
    print(f"| data path of | {heads} | of it mapped files | MB a further 100,000 studies |")
    print("|---" * (len(counts) + 3) + "|")
    for stage, rows in found.items():
        cells = " | ".join(f"{peak:,.0f} MB, {spent:.0f} s" for peak, _, spent in rows)
        slope = (rows[-1][0] - rows[-2][0]) / (counts[-1] - counts[-2]) * 1e5
        print(f"| {stage} | {cells} | {rows[-1][1]:,.0f} MB | {slope:,.0f} |")
