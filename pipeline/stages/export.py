"""The trained model as one file that writes reports of new films."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

import uar
from pipeline import paths
from pipeline.inputs import Inputs, finding_labels, open_images, study_rows
from pipeline.provenance import code_date, commit
from uar.bundle.bundle import Bundle, Preprocessing
from uar.bundle.evidence import Evidence
from uar.bundle.example import Example
from uar.bundle.index import StudyIndex
from uar.bundle.likeness import LEAST, FilmSet, Likeness
from uar.core.config import Params
from uar.core.errors import UserError
from uar.core.files import read_json, sha256
from uar.core.params_file import load_params
from uar.data.batches import TokenSource
from uar.data.study import Split
from uar.evaluation.certainty import KINDS
from uar.inference.features import global_features
from uar.inference.judge import Judge
from uar.inference.writing import needs_findings
from uar.model.checkpoint import Checkpoint
from uar.model.uar import UAR
from uar.tokens.loading import load_tokenizer

log = logging.getLogger(__name__)

INDEX = {
    "none": "Holds nothing from any single training study.",
    "ids": "Holds a feature vector and the name of each training study.",
    "reports": "Holds a feature vector, the name and the report of each training study.",
}
EXAMPLES = ("demo",)  # data sets whose terms let a study's films be passed on, made smaller
FILMS = {"demo": "drawn phantoms, not films of people"}  # what a reader would not guess
ATTRIBUTION = {
    "iu_xray": """
Reports are from IU X-Ray (D. Demner-Fushman et al., JAMIA 23(2):304-310, 2016; via Open-i) under
CC BY-NC-ND 4.0: pass them on only with the source's name, unchanged and not commercially.""",
    "custom": """
The data set is the user's own, and its terms are not known here: ask its owner before you pass this
file on.""",
}


def export() -> None:
    """Pack the trained model and all that it needs into model.uar."""
    params = load_params(paths.PARAMS)
    inputs = Inputs(params)
    checkpoint, model = inputs.trained(paths.STAGE_THREE)
    if needs_findings(params.decode) and not params.model.lsu:
        raise UserError(
            "decode.choose samples predicts findings from tokens of new films, and a model that "
            "reads pixels has none: export it with decode.findings_weight 0, or with beam."
        )
    provenance = describe(params, checkpoint)
    bundle = Bundle(
        checkpoint=checkpoint,
        members=[inputs.checkpoint(paths.external(path)) for path in params.decode.ensemble],
        tokenizer=load_tokenizer(paths.DVAE_ENCODER) if params.model.lsu else None,
        vocabulary=inputs.vocabulary,
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
        index=None if params.export.index == "none" else study_index(inputs, model),
        likeness=film_likeness(inputs),
        evidence=evidence(params),
        example=example(inputs) if params.dataset.name in EXAMPLES else None,
        judge=Judge.load(paths.JUDGE) if params.model.lsu else None,
        seed=params.seed,
    )
    bundle.save(paths.BUNDLE)
    log.info(f"export: {paths.BUNDLE}, {paths.BUNDLE.stat().st_size / 1e6:.1f} MB")


def study_index(inputs: Inputs, model: UAR) -> StudyIndex:
    """Index training studies by global visual features, with reports if params.yaml says so."""
    params = inputs.params
    studies, table = inputs.studies("train"), inputs.split_table("train")
    features = global_features(model, studies, params.decode.batch_size, "features, train")
    return StudyIndex.of(
        torch.from_numpy(np.concatenate([images for images, _ in features])),
        table["study_id"].tolist(),
        table["report"].tolist() if params.export.index == "reports" else None,
    )


def film_likeness(inputs: Inputs) -> Likeness | None:
    """What the training films are like, and how unlike them a film may be."""
    training = film_set(inputs, "train")
    if training.fewest < LEAST:
        log.warning(
            f"export: {training.fewest} training images of a view are too few to detect images "
            f"unlike the training images; {LEAST} are needed. {paths.BUNDLE} will not detect them."
        )
        return None
    return Likeness.of(training, inputs.sizes.codebook)


def film_set(inputs: Inputs, split: Split) -> FilmSet:
    """The films of a split, with the tokens that the model reads."""
    return FilmSet(
        films=open_images(),
        tokens=inputs.visual.tokens if isinstance(inputs.visual, TokenSource) else None,
        rows=study_rows(inputs.reports, inputs.params, split),
        held=inputs.held(split),
    )


def evidence(params: Params) -> Evidence:
    """What `evaluate` found on validation: how far to believe what the model says."""
    details = read_json(paths.DETAILS)
    counted, head = details["evidence"], details.get("findings_head")
    certainty = {kind: details["certainty"][kind] for kind in KINDS} if params.model.lsu else None
    return Evidence.model_validate(
        {
            "studies": counted["studies"],
            "written": counted["written"],
            "scaling": None if head is None else head["scaling"],
            "certainty": certainty,
        }
    )


def example(inputs: Inputs) -> Example:
    """The first validation study with a finding; if there is none, the first."""
    table = inputs.split_table("val")
    place = int(finding_labels(table).any(axis=1).argmax())
    study = table.iloc[place]
    films = film_set(inputs, "val")
    rows = films.rows[place][films.held[place]]
    views = tuple(study["views"])[: len(rows)]
    return Example(study["study_id"], "val", np.array(films.films[rows]), views, study["report"])


def describe(params: Params, checkpoint: Checkpoint) -> dict[str, Any]:
    """Where the model comes from, and what it scored under which protocol."""
    details = read_json(paths.DETAILS)
    return {
        "program": f"uar {uar.__version__}",
        "commit": commit("export"),
        "code_date": code_date("export"),
        "arithmetic": params.arithmetic,
        "threads": params.threads,
        "dataset": params.dataset.name,
        "films": FILMS.get(params.dataset.name, "chest films"),
        "index": params.export.index,
        "sha256": {
            str(path): sha256(path) for path in (paths.REPORTS, paths.VOCABULARY, paths.STAGE_THREE)
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


def model_card(provenance: dict[str, Any]) -> str:
    """What a reader of the file needs to know, in Markdown."""
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
