"""Decoding settings compared on validation."""

from __future__ import annotations

from itertools import product
from typing import Annotated

import typer

from pipeline import paths
from pipeline.console import new_table, number, output
from pipeline.inputs import Inputs
from uar.core.config import DecodeParams, Params
from uar.core.errors import UserError
from uar.core.params_file import load_params, parse_params
from uar.data.batches import Studies
from uar.evaluation.baselines import derangement
from uar.evaluation.clinical.labeller import Labeller
from uar.evaluation.clinical.scores import findings_scores
from uar.evaluation.metrics import score
from uar.inference.reports import write_reports
from uar.model.uar import UAR

SCORES = ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr")


def tune(
    beams: Annotated[str, typer.Option(help="Values of decode.beam_size, as 1,3,5.")] = "3",
    length_penalties: Annotated[str, typer.Option(help="Of decode.length_penalty.")] = "1",
    guidances: Annotated[str, typer.Option(help="Of decode.guidance.")] = "0",
) -> None:
    """Compare decoding settings of the trained model on validation; the test split is not read."""
    params = load_params(paths.PARAMS)
    settings = product(
        numbers("--beams", beams),
        numbers("--length-penalties", length_penalties),
        numbers("--guidances", guidances),
    )
    tried = [
        decode_params(params, beam_size=beam, length_penalty=penalty, guidance=guidance)
        for beam, penalty, guidance in settings
    ]
    inputs = Inputs(params)
    _, model = inputs.trained(paths.STAGE_TWO)
    studies = inputs.studies("val")
    others = studies.with_images_of(derangement(len(studies), params.seed))
    columns = [*SCORES, "other's", "F1", "P", "R", "distinct", "words"]
    table = new_table(f"{paths.STAGE_TWO} on {len(studies)} validation studies", columns)
    labeller = Labeller()
    for decode in tried:
        written, references = reports(model, studies, inputs, decode)
        shuffled, _ = reports(model, others, inputs, decode)
        scores = score(references, written)
        raw = inputs.split_table("val")["report"].tolist()
        micro = findings_scores(raw, written, labeller, uncertain=params.evaluate.uncertain)[
            "micro"
        ]
        table.add_row(
            f"beam {decode.beam_size}, length {decode.length_penalty:g}, "
            f"guidance {decode.guidance:g}",
            *(number(float(scores[name])) for name in SCORES),
            number(float(score(references, shuffled)["CIDEr"])),
            *(number(micro[name]) for name in ("F1", "precision", "recall")),
            str(len(set(written))),
            f"{sum(len(text.split()) for text in written) / len(written):.1f}",
        )
    console = output()
    console.print(table)
    console.print("other's: CIDEr with another study's images; F1, P, R: micro, of 13 findings")


def numbers(option: str, text: str) -> list[float]:
    """The numbers of `1,2.5`.

    Raises:
        UserError: something else.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"{option}: found {text!r}, expected numbers with commas between, as 1,3."
        ) from None


def decode_params(params: Params, **changes: float) -> DecodeParams:
    """`decode` with other settings, in the ranges of params.yaml.

    Raises:
        UserError: one is out of range, or guidance asks for a model trained otherwise.
    """
    raw = params.model_dump(mode="json")
    return parse_params(raw | {"decode": raw["decode"] | changes}, "the settings to try").decode


def reports(
    model: UAR, studies: Studies, inputs: Inputs, decode: DecodeParams
) -> tuple[list[str], list[str]]:
    """Generated reports of validation studies, and their references."""
    table = inputs.split_table("val")
    predictions = write_reports(
        model, studies, table["study_id"], table["report"], inputs.vocabulary, decode, "validation"
    )
    return [p.generated for p in predictions], [p.reference for p in predictions]
