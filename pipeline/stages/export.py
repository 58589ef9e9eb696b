"""The trained model as one file that writes reports of new films."""

from __future__ import annotations

import logging
import subprocess
from typing import Any

import numpy as np
import torch

import uar
from pipeline import paths
from pipeline.inputs import Inputs
from pipeline.provenance import code_up_to
from uar.bundle.bundle import Bundle, Preprocessing
from uar.bundle.index import StudyIndex
from uar.core.config import Params
from uar.core.device import resolve_device
from uar.core.files import read_json, sha256
from uar.core.params_file import load_params
from uar.data.text import Vocabulary
from uar.inference.features import global_features
from uar.model.checkpoint import Checkpoint
from uar.tokens.loading import load_tokenizer

log = logging.getLogger(__name__)

INDEX = {
    "none": "Holds nothing of any single training study.",
    "ids": "Holds a feature vector and the name of each training study.",
    "reports": "Holds a feature vector, the name and the report of each training study.",
}
ATTRIBUTION = {
    "iu_xray": """
Reports are of IU X-Ray (D. Demner-Fushman et al., JAMIA 23(2):304-310, 2016; via Open-i) under
CC BY-NC-ND 4.0: hand on with the source's name, unchanged, not commercially."""
}


def export() -> None:
    """Pack the trained model and all that it needs into model.uar."""
    params = load_params(paths.PARAMS)
    checkpoint = Checkpoint.load(paths.STAGE_TWO)
    provenance = describe(params, checkpoint)
    tokenizer = None
    if params.model.lsu:
        tokenizer = load_tokenizer(paths.DVAE_ENCODER, paths.DVAE_DECODER)
    bundle = Bundle(
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        vocabulary=Vocabulary.load(paths.VOCABULARY),
        preprocessing=Preprocessing(
            image_size=params.image.size,
            crop=params.image.crop,
            views=params.dataset.images_per_study,
            missing_view=params.dataset.missing_view,
            cleaner=params.report.cleaner,
            precision=params.tokenize.precision,
        ),
        decode=params.decode,
        provenance=provenance,
        card=model_card(provenance),
        index=None if params.export.index == "none" else study_index(params, checkpoint),
    )
    bundle.save(paths.BUNDLE)
    log.info(f"export: {paths.BUNDLE}, {paths.BUNDLE.stat().st_size / 1e6:.1f} MB")


def study_index(params: Params, checkpoint: Checkpoint) -> StudyIndex:
    """The training studies by their global visual features; reports where params.yaml says so."""
    inputs = Inputs(params)
    inputs.refuse_other_encoder(checkpoint.encoder_sha256, str(paths.STAGE_TWO))
    model = checkpoint.build().to(resolve_device(params.device)).eval()
    studies, table = inputs.studies("train"), inputs.split_table("train")
    features = global_features(model, studies, params.decode.batch_size, "features, train")
    return StudyIndex.of(
        torch.from_numpy(np.concatenate(list(features))),
        table["study_id"].tolist(),
        table["report"].tolist() if params.export.index == "reports" else None,
    )


def describe(params: Params, checkpoint: Checkpoint) -> dict[str, Any]:
    """Where the model comes from, and what it scored by which protocol."""
    details = read_json(paths.DETAILS)
    return {
        "program": f"uar {uar.__version__}",
        "commit": commit(),
        "arithmetic": params.arithmetic,
        "threads": params.threads,
        "dataset": params.dataset.name,
        "index": params.export.index,
        "sha256": {
            str(path): sha256(path) for path in (paths.REPORTS, paths.VOCABULARY, paths.STAGE_TWO)
        },
        "epoch": checkpoint.epoch,
        "metrics": {
            "split": "test",
            "studies": sum(1 for _ in paths.PREDICTIONS.open(encoding="utf-8")),
            "r2gen": details["scores"]["model"]["r2gen"],
            "constant_report": details["scores"]["constant_report"]["r2gen"],
            "protocol": details["protocols"]["r2gen"],
        },
    }


def commit() -> str | None:
    """The last commit that changed code of the stages up to export; None outside a git repository.

    A later one, of dvc.lock say, leaves it, so that the same model is the same file there. As with
    `git describe`, "-dirty" stands for changes that no commit holds.
    """
    code = [str(path) for path in code_up_to("export")]
    last = subprocess.run(
        ["git", "log", "-1", "--format=%H", "--", *code], capture_output=True, text=True
    )
    if last.returncode or not last.stdout:
        return None
    clean = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *code]).returncode == 0
    return last.stdout.strip() + ("" if clean else "-dirty")


def model_card(provenance: dict[str, Any]) -> str:
    """What a reader of the file has to know, Markdown."""
    metrics = provenance["metrics"]
    rows = "\n".join(
        f"| {name} | {value:.3f} | {metrics['constant_report'][name]:.3f} |"
        for name, value in metrics["r2gen"].items()
    )
    return f"""# UAR, {provenance["dataset"]}

Writes draft reports of chest X-ray films (Li et al., Unify, Align and Refine, ICCV 2023).
Research use only: not a medical device, not for clinical decisions.

Trained on the data set `{provenance["dataset"]}`; what it has not seen there, it cannot report.
It repeats common sentences: compare it with the one constant report that scores best.

Scores on {metrics["studies"]} studies of the test split, protocol `r2gen`:

| metric | this model | constant report |
|---|---|---|
{rows}

{INDEX[provenance["index"]]}{ATTRIBUTION.get(provenance["dataset"], "")}

Code: {provenance["program"]}, commit {provenance["commit"] or "unknown"}.
Epoch: {provenance["epoch"]}, the best on validation.
"""
