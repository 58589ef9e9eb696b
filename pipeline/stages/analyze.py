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
from uar.analysis import alignment, attention, basis, grounding, reconstruction, retrieval
from uar.analysis.drawing import save_png
from uar.core.config import Params, load_params
from uar.core.device import resolve_device
from uar.core.files import read_table, whole_file, write_json
from uar.data.batches import Studies
from uar.data.views import resize_view
from uar.inference.attention import with_reports, word_attention
from uar.inference.features import paired_features
from uar.inference.reports import write_reports
from uar.model.checkpoint import Checkpoint
from uar.model.uar import UAR
from uar.tokens.tokenizer import load_tokenizer, reconstruction_quality

log = logging.getLogger(__name__)

SPLIT = "the validation split"
ONE, TWO = "stage one", "stage two"
_MEASURED_FILMS = 256  # behind the reconstruction's quality


def analyze() -> None:
    """Draw the paper's figures on the validation split; the test split is evaluate's alone."""
    params = load_params(paths.PARAMS)
    validation = Validation.read(params)
    models = trained_models(params, validation.inputs)
    for folder in (paths.FIGURES, paths.FIGURE_NUMBERS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    write_json(
        paths.ANALYSIS,
        {
            **align(validation, models),
            "basis": compare_basis(models[TWO]),
            "reconstruction": reconstruct(validation),
            "grounding": attend(validation, models),
        },
    )
    drawn = sorted(path.stem for path in paths.FIGURES.iterdir())
    log.info(f"analyze: {SPLIT}, {paths.FIGURES}: {', '.join(drawn)}")


@dataclass(frozen=True)
class Validation:
    """The validation split as the figures need it."""

    params: Params
    inputs: Inputs
    studies: Studies
    ids: list[str]
    reports: list[str]  # as the model can write them: cut, rare words as <unk>
    present: np.ndarray  # (S, V) bool, the views that each study has
    samples: list[int]  # studies that Figures 3 and 6 show

    @classmethod
    def read(cls, params: Params) -> Validation:
        """Read the split and draw the sample studies."""
        inputs = Inputs(params)
        studies, table = inputs.studies("val"), inputs.split_table("val")
        held = table["views"].map(len).to_numpy()[:, None]
        count = min(params.analyze.samples, len(studies))
        generator = np.random.default_rng(params.seed)
        return cls(
            params=params,
            inputs=inputs,
            studies=studies,
            ids=table["study_id"].tolist(),
            reports=[inputs.vocabulary.decode(row) for row in studies.reports.tolist()],
            present=np.arange(params.dataset.images_per_study) < held,
            samples=sorted(generator.choice(len(studies), count, replace=False).tolist()),
        )

    def films(self, rows: np.ndarray) -> np.ndarray:
        """Whole films of packed rows `(N,)` as the model sees them, `(N, crop, crop)` in [0, 1]."""
        images = torch.from_numpy(open_images()[rows])
        return resize_view(images, self.params.image.crop).numpy()


def trained_models(params: Params, inputs: Inputs) -> dict[str, UAR]:
    """The models of both stages; stage two's alone where training had one stage."""
    models = {}
    for name, path in ((ONE, paths.STAGE_ONE), (TWO, paths.STAGE_TWO)):
        checkpoint = Checkpoint.load(path)
        inputs.refuse_other_encoder(checkpoint.encoder_sha256, str(path))
        if checkpoint.epoch > 0:
            models[name] = checkpoint.build().to(resolve_device(params.device)).eval()
    return models


def align(validation: Validation, models: Mapping[str, UAR]) -> dict[str, Any]:
    """Figures 3 and 4: retrieval by stage two, alignment by both stages."""
    batch_size = validation.params.decode.batch_size
    cosine = {
        name: retrieval.cosine_matrix(
            *paired_features(model, validation.studies, batch_size, f"features, {name}")
        )
        for name, model in models.items()
    }
    draw("figure4_alignment", alignment.draw_alignment(cosine, SPLIT))
    for name, matrix in cosine.items():
        table = pd.DataFrame(matrix, validation.ids, validation.ids)
        number_file(f"figure4_cosine_{as_key(name)}", table, index=True)
    return {
        "retrieval": retrieve(validation, cosine[TWO]),
        "alignment": {
            as_key(name): alignment.alignment_metrics(matrix) for name, matrix in cosine.items()
        },
    }


def retrieve(validation: Validation, cosine: np.ndarray) -> dict[str, dict[str, float]]:
    """Figure 3, both ways."""
    text = validation.studies.report_ids.numpy()
    same = text[:, None] == text
    films = validation.films(validation.studies.rows[:, 0])
    metrics, ranks = {}, {}
    for query, name, values in (
        ("image", "image_to_report", cosine),
        ("report", "report_to_image", cosine.T),
    ):
        ranks[name] = retrieval.true_ranks(values, same)
        metrics[name] = retrieval.retrieval_metrics(ranks[name])
        rows = retrieval.queries(values, ranks[name], validation.samples)
        figure = retrieval.draw_retrieval(
            query, rows, values, same, films, validation.reports, SPLIT
        )
        draw(f"figure3_{name}", figure)
        number_file(f"figure3_{name}", retrieval.top_table(rows, values, same, validation.ids))
    table = pd.DataFrame({"study_id": validation.ids, "cosine": np.diagonal(cosine), **ranks})
    number_file("figure3_ranks", table)
    return metrics


def compare_basis(model: UAR) -> dict[str, dict[str, float]] | None:
    """Figure 5; None for a model without a basis."""
    if model.aligner is None:
        skip("figure5_basis", "the model has no basis (model.integration: false)")
        return None
    with torch.no_grad():
        matrices = {
            "start": basis.gram(model.aligner.basis.cpu()),
            "trained": basis.gram(model.aligner.adjusted_basis().cpu()),
        }
    draw("figure5_basis", basis.draw_gram(matrices, model.params.basis))
    for name, matrix in matrices.items():
        number_file(f"figure5_gram_{name}", pd.DataFrame(matrix))
    return {name: basis.gram_metrics(matrix) for name, matrix in matrices.items()}


def reconstruct(validation: Validation) -> dict[str, Any] | None:
    """Figure 6; None for a model that sees pixels."""
    if not validation.params.model.lsu:
        skip("figure6_reconstruction", "the model sees pixels (model.lsu: false)")
        return None
    dvae = load_tokenizer(paths.DVAE_ENCODER, paths.DVAE_DECODER).eval()
    dvae.to(resolve_device(validation.params.device))
    device = next(dvae.parameters()).device
    views = [(i, v) for i in validation.samples for v in np.flatnonzero(validation.present[i])]
    raw = validation.films(np.array([validation.studies.rows[i, v] for i, v in views]))
    with torch.inference_mode():
        again = dvae.reconstruct(dvae.tokenize(torch.from_numpy(raw).to(device))).cpu().numpy()
    names = [f"{validation.ids[i]}, film {v + 1}" for i, v in views]
    draw("figure6_reconstruction", reconstruction.draw_reconstruction(raw, again, names, SPLIT))
    number_file(
        "figure6_reconstruction", pd.DataFrame(reconstruction.film_table(raw, again, names))
    )
    rows = validation.studies.rows[validation.present]
    measured = validation.films(rows[:: math.ceil(len(rows) / _MEASURED_FILMS)])
    return reconstruction_quality(dvae, torch.from_numpy(measured).to(device))


def attend(validation: Validation, models: Mapping[str, UAR]) -> dict[str, Any] | None:
    """Figure 7 and grounding: the model without the refiner (stage one) against the one with it."""
    compared = {
        "with TIR" if model.params.tir else "without TIR": model for model in models.values()
    }
    boxes = read_table(paths.BOXES)
    draw_word_attention(validation, compared, boxes)
    return ground(validation, compared, boxes)


def draw_word_attention(
    validation: Validation, models: Mapping[str, UAR], boxes: pd.DataFrame
) -> None:
    """Figure 7: each model's words over the films of studies whose findings all of them name."""
    params, views = validation.params, validation.studies.rows.shape[1]
    generated = {}
    for name, model in models.items():
        predictions = write_reports(
            model, validation.studies, validation.ids, validation.reports,
            validation.inputs.vocabulary, params.decode, f"generate, {name}",
        )  # fmt: skip
        generated[name] = [prediction.generated for prediction in predictions]
    reports = list(zip(validation.reports, *generated.values(), strict=True))
    chosen = attention.telling_studies(reports, params.analyze.samples)
    maps = {}
    for name, model in models.items():
        writing = with_reports(
            validation.studies, chosen, [generated[name][i] for i in chosen],
            validation.inputs.vocabulary, params.report.max_length,
        )  # fmt: skip
        maps[name] = word_attention(model, writing, params.decode.batch_size, f"attention, {name}")
    for number, study in enumerate(chosen):
        written = {
            name: attention.Written(generated[name][study].split(), maps[name][number])
            for name in models
        }
        study_id = validation.ids[study]
        figure = attention.draw_attention(
            written,
            validation.films(validation.studies.rows[study]),
            validation.reports[study],
            boxes[boxes["study_id"] == study_id],
            f"Text-to-image attention, study {study_id} of {SPLIT}",
        )
        draw(f"figure7_attention_{number + 1}", figure)
        number_file(f"figure7_attention_{number + 1}", attention.attention_table(written, views))


def ground(
    validation: Validation, models: Mapping[str, UAR], boxes: pd.DataFrame
) -> dict[str, Any] | None:
    """Attention of the true reports' finding words against known boxes; None without boxes."""
    words = [report.split() for report in validation.reports]
    found = grounding.mentions(boxes, validation.ids, words, validation.present)
    if not found:
        skip("grounding", "the data set has no boxes")
        return None
    tables = {}
    for name, model in models.items():
        maps = word_attention(
            model, validation.studies, validation.params.decode.batch_size, f"grounding, {name}"
        )
        tables[name] = grounding.grounding_table(
            found, maps, validation.ids, validation.studies.rows.shape[1]
        )
    draw("grounding", grounding.draw_grounding(tables, SPLIT))
    number_file("grounding", pd.concat(tables, names=["model"]).reset_index("model"))
    return grounding.grounding_metrics({as_key(name): table for name, table in tables.items()})


def draw(name: str, figure: Figure) -> None:
    """Write a figure."""
    save_png(figure, paths.FIGURES / f"{name}.png")


def number_file(name: str, table: pd.DataFrame, index: bool = False) -> None:
    """Write the numbers behind a figure."""
    with whole_file(paths.FIGURE_NUMBERS / f"{name}.csv") as temporary:
        table.to_csv(temporary, index=index, float_format="%.5g")


def as_key(name: str) -> str:
    """A model's name in file names and in metrics.json."""
    return name.replace(" ", "_")


def skip(name: str, why: str) -> None:
    """Say that a figure does not apply."""
    log.info(f"analyze: no {name}: {why}")
