"""Where the stages read and write, relative to the project's folder; as in dvc.yaml."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
PRESETS = Path("presets")
ABLATIONS = Path("ablations.yaml")
DVC = Path("dvc.yaml")
DVC_LOCK = Path("dvc.lock")
RESULTS = Path("results")
RESULT_RUNS = Path("results/runs")
RADEVAL = Path(".radeval")  # RadEval's environment
RUN_LOG = Path(".runs.jsonl")  # of this clone, outside version control

STUDIES = Path("data/studies.parquet")
IMAGES = Path("data/images.npy")
BOXES = Path("data/boxes.parquet")
LEFT_OUT = Path("data/left_out.csv")
INGEST_SUMMARY = Path("data/ingest.json")
REPORTS = Path("data/reports.parquet")
VOCABULARY = Path("data/vocabulary.json")
DVAE_ENCODER = Path("models/dvae/encoder.safetensors")
DVAE_DECODER = Path("models/dvae/decoder.safetensors")
DVAE_SUMMARY = Path("models/dvae/summary.json")
TOKENS = Path("data/tokens.npy")
TOKENS_INFO = Path("data/tokens.json")
PROBE = Path("data/probe.json")
PROBE_FINDINGS = Path("data/probe.csv")
JUDGE = Path("models/judge.safetensors")
JUDGE_SUMMARY = Path("models/judge.json")
STAGE_ONE = Path("models/stage_one.safetensors")
STAGE_TWO = Path("models/stage_two.safetensors")
STAGE_THREE = Path("models/stage_three.safetensors")  # the trained model
LOGS = Path("dvclive")  # a folder for each training stage
SPEED = Path("dvclive/speed")  # a folder for each training stage, outside version control
SCRATCH = Path(".resume")  # a folder for each stage, outside version control
MAPS = Path(".resume/maps")  # of a frozen extractor, for all training stages
PROVENANCE = Path("provenance")  # a record for each stage
PREDICTIONS = Path("evaluation/predictions.jsonl")
SHUFFLED_PREDICTIONS = Path("evaluation/predictions_shuffled.jsonl")
STUDY_SCORES = Path("evaluation/scores.csv")
PAGE = Path("evaluation/reports.html")
METRICS = Path("evaluation/metrics.json")
DETAILS = Path("evaluation/details.json")
BUNDLE = Path("model.uar")
FIGURES = Path("analysis/figures")
CURVES = Path("analysis/curves.html")
SPEED_FIGURE = Path("analysis/speed.svg")  # on the curves' page, outside version control
FIGURES_PDF = Path("analysis/pdf")
FIGURE_NUMBERS = Path("analysis/numbers")
ANALYSIS = Path("analysis/metrics.json")
ANALYSIS_DETAILS = Path("analysis/details.json")


def external(path: Path | str) -> Path:
    """Find a file or folder outside version control: here, or else in the project's folder.

    DVC runs queued experiments in copies of the project that lack such files, and says in the
    environment where the project is.
    """
    there = in_project(Path(path))
    return there if there.exists() and not Path(path).exists() else Path(path)


def in_project(path: Path) -> Path:
    """Where to write a file outside version control: in the project, not in a copy of it."""
    return Path(os.environ.get("DVC_ROOT", "")) / path
