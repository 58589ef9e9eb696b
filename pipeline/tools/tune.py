"""Decoding settings, compared on validation."""

from __future__ import annotations

from itertools import product
from typing import Annotated

import typer

from pipeline import paths
from pipeline.console import new_table, number, output
from pipeline.inputs import Inputs
from pipeline.judging import finding_probabilities
from uar.core.config import DecodeParams, Params
from uar.core.errors import UserError
from uar.core.params_file import load_params, parse_params
from uar.data.batches import Studies
from uar.evaluation.baselines import derangement
from uar.evaluation.clinical.labeller import Labeller
from uar.evaluation.clinical.scores import findings_scores
from uar.evaluation.metrics import score
from uar.inference.choice import Candidates
from uar.inference.reports import sampled_candidates, write_reports
from uar.model.ensemble import Ensemble
from uar.model.uar import UAR

SCORES = ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr")


def tune(
    beams: Annotated[str, typer.Option(help="Values of decode.beam_size, such as 1,3,5.")] = "3",
    length_penalties: Annotated[str, typer.Option(help="Values of decode.length_penalty.")] = "1",
    guidances: Annotated[str, typer.Option(help="Values of decode.guidance.")] = "0",
    choose: Annotated[str, typer.Option(help="beam, samples, or both: beam,samples.")] = "beam",
    samples: Annotated[str, typer.Option(help="Values of decode.samples.")] = "30",
    temperatures: Annotated[str, typer.Option(help="Values of decode.temperature.")] = "0.7",
    findings_weights: Annotated[
        str, typer.Option(help="Values of decode.findings_weight.")
    ] = "0,10",
    findings_thresholds: Annotated[
        str, typer.Option(help="Values of decode.findings_threshold.")
    ] = "0.15",
) -> None:
    """Compare decoding settings of the trained model on validation; the test split is not read."""
    params = load_params(paths.PARAMS)
    ways = choose.split(",")
    if unknown := set(ways) - {"beam", "samples"}:
        raise UserError(f"--choose: found {', '.join(sorted(unknown))}, expected beam or samples.")
    by_beams = {
        "beam_size": numbers("--beams", beams),
        "length_penalty": numbers("--length-penalties", length_penalties),
        "guidance": numbers("--guidances", guidances),
    }
    by_samples = {
        "guidance": by_beams["guidance"],
        "samples": numbers("--samples", samples),
        "temperature": numbers("--temperatures", temperatures),
        "findings_weight": numbers("--findings-weights", findings_weights),
        "findings_threshold": numbers("--findings-thresholds", findings_thresholds),
    }
    tried = [
        *(settings(params, by_beams, choose="beam") if "beam" in ways else []),
        *(settings(params, by_samples, choose="samples") if "samples" in ways else []),
    ]
    inputs = Inputs(params)
    _, trained = inputs.trained(paths.STAGE_THREE)
    model = inputs.writer(trained)
    studies = inputs.studies("val")
    others = studies.with_images_of(derangement(len(studies), params.seed))
    columns = [*SCORES, "other's", "F1", "P", "R", "distinct", "words"]
    several = f", one of {1 + n} models," if (n := len(params.decode.ensemble)) else ""
    title = f"{paths.STAGE_THREE}{several} on {len(studies)} validation studies"
    table = new_table(title, columns)
    labeller = Labeller()
    references = [inputs.vocabulary.decode(row) for row in studies.reports.tolist()]
    own, other = (Writing(model, images, inputs) for images in (studies, others))
    for decode in tried:
        written, shuffled = own.reports(decode), other.reports(decode)
        scores = score(references, written)
        raw = inputs.split_table("val")["report"].tolist()
        micro = findings_scores(raw, written, labeller, uncertain=params.evaluate.uncertain)[
            "micro"
        ]
        table.add_row(
            label(decode),
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
    """Parse numbers such as `1,2.5`.

    Raises:
        UserError: the text is something else.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"{option}: found {text!r}, expected numbers separated by commas, such as 1,3."
        ) from None


def settings(params: Params, values: dict[str, list[float]], choose: str) -> list[DecodeParams]:
    """Every combination of `decode` values; with a weight of 0, thresholds make no difference."""
    tried = [
        decode_params(params, choose=choose, **dict(zip(values, of, strict=True)))
        for of in product(*values.values())
    ]
    return list({label(decode): decode for decode in tried}.values())


def decode_params(params: Params, **changes: float | str) -> DecodeParams:
    """`decode` with other settings, in the ranges of params.yaml.

    Raises:
        UserError: one is out of range, or guidance needs a model that was trained for it.
    """
    raw = params.model_dump(mode="json")
    return parse_params(raw | {"decode": raw["decode"] | changes}, "the settings to try").decode


def label(decode: DecodeParams) -> str:
    """The settings as the label of a row."""
    if decode.choose == "beam":
        of = f"beam {decode.beam_size}, length {decode.length_penalty:g}"
    else:
        of = f"{decode.samples} samples at {decode.temperature:g}, "
        of += f"findings {decode.findings_weight:g}"
        of += f"@{decode.findings_threshold:g}" if decode.findings_weight else ""
    return f"{of}, guidance {decode.guidance:g}"


class Writing:
    """Writes reports of validation studies; settings that choose among the same samples share them.

    Args:
        model: in evaluation mode.
        studies: with their own images or those of others.
        inputs: vocabulary and parameters.
    """

    def __init__(self, model: UAR | Ensemble, studies: Studies, inputs: Inputs) -> None:
        self._model, self._studies, self._inputs = model, studies, inputs
        self._sampled: tuple[tuple[float, ...], list[Candidates]] | None = None  # the last ones

    def reports(self, decode: DecodeParams) -> list[str]:
        """Write a report for each study."""
        decoded = self._inputs.vocabulary.decode
        if decode.choose == "samples":
            probabilities = finding_probabilities(decode, self._studies)
            chosen = [
                candidates.best(
                    decode.findings_weight,
                    decode.findings_threshold,
                    None if probabilities is None else probabilities[study],
                )
                for study, candidates in enumerate(self._candidates(decode))
            ]
            return [decoded(one.ids) for one in chosen]
        table = self._inputs.split_table("val")
        predictions = write_reports(
            self._model, self._studies, study_ids=table["study_id"], raw_reports=table["report"],
            vocabulary=self._inputs.vocabulary, params=decode, what="validation",
        )  # fmt: skip
        return [prediction.generated for prediction in predictions]

    def _candidates(self, decode: DecodeParams) -> list[Candidates]:
        drawn = (decode.guidance, decode.samples, decode.temperature)
        if self._sampled is None or self._sampled[0] != drawn:
            candidates = sampled_candidates(
                self._model, self._studies, vocabulary=self._inputs.vocabulary, params=decode,
                what="validation", seed=self._inputs.params.seed,
            )  # fmt: skip
            self._sampled = drawn, candidates
        return self._sampled[1]
