"""The paper's Figures 3 to 7 and grounding, on the validation split, with the numbers behind."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from pipeline import paths
from pipeline.inputs import Inputs, open_images
from pipeline.provenance import commit
from uar.analysis import (
    alignment,
    basis,
    curves,
    grounding,
    reconstruction,
    retrieval,
    word_heatmaps,
)
from uar.analysis.drawing import Caption, save_figure
from uar.core.config import Params
from uar.core.device import resolve_device
from uar.core.files import sha256, write_csv, write_json
from uar.core.params_file import load_params
from uar.data.batches import Studies
from uar.data.study import BOX_COLUMNS, read_checked
from uar.data.views import resize_view
from uar.evaluation.published import published_alignment_scores
from uar.inference.features import paired_features
from uar.inference.reports import write_reports
from uar.inference.word_attention import with_reports, word_attention
from uar.model.checkpoint import Checkpoint
from uar.model.uar import UAR
from uar.tokens.decoder import load_decoder, reconstruction_quality
from uar.tokens.loading import load_tokenizer

log = logging.getLogger(__name__)

ONE, TWO = "stage one", "stage two"
FOLDERS = {ONE: "stage_one", TWO: "stage_two"}  # of their logs
_MEASURED_FILMS = 256  # behind the reconstruction's quality
CAPTIONS = {  # of figures by name, without the number that tells like ones apart
    "curves": Caption(
        "Training curves",
        "Losses and scores of written reports by epoch; stage two's loss without the mask's share. "
        "A validation loss that rises while training's falls says that the model overfits.",
    ),
    "figure3_image_to_report": Caption(
        "Figure 3: reports retrieved by a study's images",
        "Each row is a study drawn at random: its images, its own report with its rank, and the "
        "reports nearest to the images. Good alignment ranks the study's own report high.",
    ),
    "figure3_report_to_image": Caption(
        "Figure 3: images retrieved by a report",
        "Each row is a study drawn at random: its report, its own images with their rank, and the "
        "images nearest to the report.",
    ),
    "figure5_basis": Caption(
        "Figure 5: the basis before and after training",
        "Left: how much training changed the cosine of each pair of basis columns. Right: all of "
        "these cosines. Columns that stay near 0 are still orthogonal.",
    ),
    "figure6_reconstruction": Caption(
        "Figure 6: what the visual tokens keep of a film",
        "Film, its reconstruction from the tokens, and what is lost. What the reconstruction does "
        "not show is hard for the model to see.",
    ),
    "figure7_attention": Caption(
        "Figure 7: where the model looks for each word",
        "Attention over the film while a word of the report is written, in multiples of uniform "
        "attention. A model that looks attends to the place that the word is about.",
    ),
    "grounding": Caption(
        "Grounding: does attention meet the finding?",
        "For each finding with a known box: attention of its word in the true report, with 95 % "
        "intervals. Right of the black mark is better than chance.",
    ),
}


def analyze() -> None:
    """Draw the paper's figures on the validation split; only `evaluate` reads the test split."""
    params = load_params(paths.PARAMS)
    validation = ValidationSplit.read(params)
    models = trained_models(params, validation.inputs)
    for folder in (paths.FIGURES, paths.FIGURES_PDF, paths.FIGURE_NUMBERS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    follow_training(params)
    details = {
        **align(validation, models),
        "basis": draw_basis(models[TWO]),
        "reconstruction": reconstruct(validation),
        "grounding": attend(validation, models),
    }
    write_json(paths.ANALYSIS_DETAILS, details)
    write_json(paths.ANALYSIS, headline(details))
    drawn = sorted(path.stem for path in paths.FIGURES.iterdir())
    log.info(f"analyze: the validation split, {paths.FIGURES}: {', '.join(drawn)}")
    log.info(f"analyze: training curves: {paths.CURVES}")


def follow_training(params: Params) -> None:
    """Losses and validation scores by epoch, as a figure and as a page."""
    stages = {
        name: curves.read_curves(paths.LOGS / folder / "plots/metrics")
        for name, folder in FOLDERS.items()
    }
    stages[TWO] = curves.without_mask(
        stages[TWO], params.train.lambda3, params.train.mask_reduction
    )
    draw("curves", curves.draw_curves(stages))
    run = (
        f"Data set {params.dataset.name}, train.seed {params.train.seed}, checkpoint "
        f"{sha256(paths.STAGE_TWO)[:8]}, code of commit {(commit('analyze') or 'unknown')[:8]}."
    )
    curves.write_page(curves.draw_curves(stages), stages, run, paths.CURVES)
    speed = {
        name: curves.read_speed(paths.SPEED / folder / "plots/metrics")
        for name, folder in FOLDERS.items()
    }
    paths.SPEED_FIGURE.unlink(missing_ok=True)
    if trained := {name: of_stage for name, of_stage in speed.items() if of_stage}:
        curves.draw_speed(trained).savefig(paths.SPEED_FIGURE, metadata={"Date": None})


def headline(details: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that DVC lists as metrics, as far as they apply, to four decimals."""
    two, grounding = details["alignment"]["stage_two"], details["grounding"]
    values = {
        "alignment": two["score"],
        "R@5": details["retrieval"]["image_to_report"]["R@5"],
    }
    if grounding is not None:
        last = "with_TIR" if "with_TIR" in grounding else "without_TIR"
        values["pointing"] = grounding[last]["pointing"]
        values["chance"] = grounding["chance"]["pointing"]
    return {name: round(value, 4) for name, value in values.items()}


SAMPLES = 3  # studies that Figures 3, 6 and 7 show


@dataclass(frozen=True)
class ValidationSplit:
    """The validation split as the figures need it."""

    params: Params
    inputs: Inputs
    studies: Studies
    ids: list[str]
    reports: list[str]  # as the model can write them: cut, rare words as <unk>
    present: np.ndarray  # (S, V) bool, the views that each study has
    views: list[list[str]]  # names of each study's views
    samples: list[int]  # studies that Figures 3 and 6 show

    @classmethod
    def read(cls, params: Params) -> ValidationSplit:
        """Read the split and draw the sample studies."""
        inputs = Inputs(params)
        studies, table = inputs.studies("val"), inputs.split_table("val")
        held = table["views"].map(len).to_numpy()[:, None]
        count = min(SAMPLES, len(studies))
        generator = np.random.default_rng(params.seed)
        return cls(
            params=params,
            inputs=inputs,
            studies=studies,
            ids=table["study_id"].tolist(),
            reports=[inputs.vocabulary.decode(row) for row in studies.reports.tolist()],
            present=np.arange(params.dataset.images_per_study) < held,
            views=[list(names) for names in table["views"]],
            samples=sorted(generator.choice(len(studies), count, replace=False).tolist()),
        )

    def films(self, rows: np.ndarray) -> np.ndarray:
        """Whole films of packed rows `(N,)` as the model sees them, `(N, crop, crop)` in [0, 1]."""
        images = torch.from_numpy(open_images()[rows])
        return resize_view(images, self.params.image.crop).numpy()

    def films_of(self, study: int) -> np.ndarray:
        """The films that a study has, `(v, crop, crop)` in [0, 1]."""
        return self.films(self.studies.rows[study][self.present[study]])

    def view_name(self, study: int, view: int) -> str:
        """Which view a film is, by number where the data set does not say."""
        names = self.views[study]
        known = view < len(names) and names[view] != "unknown"
        return names[view] if known else f"film {view + 1}"


def trained_models(params: Params, inputs: Inputs) -> dict[str, UAR]:
    """The models of both stages; stage two's alone where training had one stage."""
    models = {}
    for name, path in ((ONE, paths.STAGE_ONE), (TWO, paths.STAGE_TWO)):
        checkpoint = Checkpoint.load(path)
        inputs.refuse_other_encoder(checkpoint.encoder_sha256, str(path))
        if checkpoint.validation:  # not stage one of a one-stage run, which is untrained
            models[name] = checkpoint.build().to(resolve_device(params.device)).eval()
    return models


def align(validation: ValidationSplit, models: Mapping[str, UAR]) -> dict[str, Any]:
    """Figures 3 and 4: retrieval by stage two, alignment by both stages."""
    batch_size = validation.params.decode.batch_size
    cosine = {
        name: retrieval.cosine_matrix(
            *paired_features(model, validation.studies, batch_size, f"features, {name}")
        )
        for name, model in models.items()
    }
    published = published_alignment_scores() if validation.params.dataset.name == "iu_xray" else {}
    scores = {name: alignment.alignment_metrics(matrix) for name, matrix in cosine.items()}
    draw(
        "figure4_alignment",
        alignment.draw_alignment(cosine, validation.reports, published),
        alignment_caption({name: of_model["score"] for name, of_model in scores.items()}),
    )
    for name, matrix in cosine.items():
        table = pd.DataFrame(matrix, validation.ids, validation.ids)
        write_numbers(f"figure4_cosine_{slug(name)}", table, index=True)
    return {
        "retrieval": retrieve(validation, cosine[TWO]),
        "alignment": {slug(name): of_model for name, of_model in scores.items()},
    }


def alignment_caption(scores: Mapping[str, float]) -> Caption:
    """Figure 4's, with the alignment scores of the models by their names."""
    said = ", ".join(f"{100 * score:.0f} % in {name}" for name, score in scores.items())
    first, last = list(scores.values())[0], list(scores.values())[-1]
    change = ""
    if len(scores) > 1:
        change = " It rises." if last > first else " It falls." if last < first else ""
    return Caption(
        "Figure 4: how well images and reports are aligned",
        f"Share of image-report pairs with a scaled cosine above 0.5: {said}.{change} Similar "
        "reports are neighbours, so alignment shows as bright blocks on the diagonal.",
    )


def retrieve(validation: ValidationSplit, cosine: np.ndarray) -> dict[str, dict[str, float]]:
    """Figure 3, both ways."""
    text = validation.studies.report_ids.numpy()
    same = text[:, None] == text
    metrics, ranks = {}, {}
    for query, name, values in (
        ("image", "image_to_report", cosine),
        ("report", "report_to_image", cosine.T),
    ):
        ranks[name] = retrieval.true_ranks(values, same)
        metrics[name] = retrieval.retrieval_metrics(ranks[name])
        rows = retrieval.queries(values, ranks[name], validation.samples)
        figure = retrieval.draw_retrieval(
            query, rows, values, same, validation.films_of, validation.reports
        )
        draw(f"figure3_{name}", figure)
        write_numbers(f"figure3_{name}", retrieval.top_table(rows, values, same, validation.ids))
    table = pd.DataFrame({"study_id": validation.ids, "cosine": np.diagonal(cosine), **ranks})
    write_numbers("figure3_ranks", table)
    return metrics


def draw_basis(model: UAR) -> dict[str, dict[str, float]] | None:
    """Figure 5; None for a model without a basis."""
    if model.aligner is None:
        log_skipped("figure5_basis", "the model has no basis (model.integration: false)")
        return None
    with torch.no_grad():
        matrices = {
            "start": basis.gram(model.aligner.basis.cpu()),
            "trained": basis.gram(model.aligner.adjusted_basis().cpu()),
        }
    draw("figure5_basis", basis.draw_gram(matrices["start"], matrices["trained"]))
    for name, matrix in matrices.items():
        write_numbers(f"figure5_gram_{name}", pd.DataFrame(matrix))
    return {name: basis.gram_metrics(matrix) for name, matrix in matrices.items()}


def reconstruct(validation: ValidationSplit) -> dict[str, Any] | None:
    """Figure 6; None for a model that sees pixels."""
    if not validation.params.model.lsu:
        log_skipped("figure6_reconstruction", "the model sees pixels (model.lsu: false)")
        return None
    device = resolve_device(validation.params.device)
    tokenizer = load_tokenizer(paths.DVAE_ENCODER).to(device)
    decoder = load_decoder(paths.DVAE_DECODER, tokenizer).to(device)
    views = [(i, int(v)) for i in validation.samples for v in np.flatnonzero(validation.present[i])]
    raw = validation.films(np.array([validation.studies.rows[i, v] for i, v in views]))
    with torch.inference_mode():
        tokens = tokenizer.tokenize(torch.from_numpy(raw).to(device))
        copies = decoder.reconstruct(tokens).cpu().numpy()
    names = [f"{validation.ids[i]}, {validation.view_name(i, v)}" for i, v in views]
    boxes = read_checked(paths.BOXES, BOX_COLUMNS)
    known = [
        {
            box.finding: (box.x0, box.y0, box.x1, box.y1)
            for box in boxes[boxes["study_id"] == validation.ids[i]].itertuples()
            if box.view == v
        }
        for i, v in views
    ]
    draw("figure6_reconstruction", reconstruction.draw_reconstruction(raw, copies, names, known))
    table = pd.DataFrame(reconstruction.film_table(raw, copies, names))
    write_numbers("figure6_reconstruction", table)
    write_numbers("figure6_findings", reconstruction.finding_table(raw, copies, names, known))
    rows = validation.studies.rows[validation.present]
    measured = validation.films(rows[:: math.ceil(len(rows) / _MEASURED_FILMS)])
    return reconstruction_quality(tokenizer, decoder, torch.from_numpy(measured).to(device))


def attend(validation: ValidationSplit, models: Mapping[str, UAR]) -> dict[str, Any] | None:
    """Figure 7 and grounding: the model without the refiner (stage one) against the one with it."""
    compared = {
        "with TIR" if model.params.tir != "none" else "without TIR": model
        for model in models.values()
    }
    boxes = read_checked(paths.BOXES, BOX_COLUMNS)
    draw_word_attention(validation, compared, boxes)
    return ground(validation, compared, boxes)


def draw_word_attention(
    validation: ValidationSplit, models: Mapping[str, UAR], boxes: pd.DataFrame
) -> None:
    """Figure 7: every model's attention over the report that the last one writes.

    Shown are the studies whose true and written reports assert the most findings in common.
    """
    params, views = validation.params, validation.studies.rows.shape[1]
    last = list(models)[-1]
    predictions = write_reports(
        models[last], validation.studies, validation.ids, validation.reports,
        validation.inputs.vocabulary, params.decode, f"generate, {last}",
    )  # fmt: skip
    generated = [prediction.generated for prediction in predictions]
    chosen = word_heatmaps.studies_with_common_findings(
        list(zip(validation.reports, generated, strict=True)), SAMPLES
    )
    writing = with_reports(
        validation.studies, chosen, [generated[i] for i in chosen],
        validation.inputs.vocabulary, params.report.max_length,
    )  # fmt: skip
    maps = {
        name: word_attention(model, writing, params.decode.batch_size, f"attention, {name}")
        for name, model in models.items()
    }
    for number, study in enumerate(chosen):
        reports = {
            name: word_heatmaps.ReportAttention(generated[study].split(), values[number])
            for name, values in maps.items()
        }
        figure = word_heatmaps.draw_word_heatmaps(
            reports,
            validation.films(validation.studies.rows[study]),
            [validation.view_name(study, view) for view in range(views)],
            validation.reports[study],
            boxes[boxes["study_id"] == validation.ids[study]],
        )
        name = f"figure7_attention_{number + 1}"
        draw(name, figure)
        write_numbers(name, word_heatmaps.attention_table(reports, views))


def ground(
    validation: ValidationSplit, models: Mapping[str, UAR], boxes: pd.DataFrame
) -> dict[str, Any] | None:
    """Attention of the true reports' finding words against known boxes; None without boxes."""
    words = [report.split() for report in validation.reports]
    found = grounding.mentions(boxes, validation.ids, words, validation.present)
    if not found:
        log_skipped("grounding", "the data set has no boxes")
        return None
    tables = {}
    for name, model in models.items():
        maps = word_attention(
            model, validation.studies, validation.params.decode.batch_size, f"grounding, {name}"
        )
        tables[name] = grounding.grounding_table(
            found, maps, validation.ids, validation.studies.rows.shape[1]
        )
    summary = grounding.grounding_summary(tables)
    draw("grounding", grounding.draw_grounding(summary))
    write_numbers("grounding_summary", summary)
    write_numbers("grounding", pd.concat(tables, names=["model"]).reset_index("model"))
    return grounding.grounding_metrics({slug(name): table for name, table in tables.items()})


def draw(name: str, figure: Figure, caption: Caption | None = None) -> None:
    """Write a figure, for the screen with its caption, and for print."""
    caption = caption or CAPTIONS[name.rstrip("_0123456789")]
    save_figure(figure, caption, paths.FIGURES / f"{name}.png", paths.FIGURES_PDF / f"{name}.pdf")


def write_numbers(name: str, table: pd.DataFrame, index: bool = False) -> None:
    """Write the numbers behind a figure."""
    write_csv(paths.FIGURE_NUMBERS / f"{name}.csv", table, index=index, float_format="%.5g")


def slug(name: str) -> str:
    """A model's name in file names and in metrics.json."""
    return name.replace(" ", "_")


def log_skipped(name: str, why: str) -> None:
    """Say that a figure does not apply."""
    log.info(f"analyze: no {name}: {why}")
