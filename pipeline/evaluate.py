"""Reports for the test split and their scores, beside a constant report and a shuffled control."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from pipeline import paths
from pipeline.inputs import Inputs
from uar.baselines import constant_report, derangement
from uar.batches import Studies
from uar.checkpoint import Checkpoint
from uar.config import DecodeParams, load_params
from uar.decoding import generate
from uar.device import resolve_device
from uar.files import write_json
from uar.metrics import (
    PROTOCOLS,
    Prediction,
    read_predictions,
    score_protocols,
    text_statistics,
    write_predictions,
)
from uar.model import UAR
from uar.text import Vocabulary


def evaluate() -> None:
    """Write and score the test split's reports; the only stage that reads that split."""
    params = load_params(paths.PARAMS)
    inputs = Inputs(params)
    checkpoint = Checkpoint.load(paths.STAGE_TWO)
    inputs.refuse_other_encoder(checkpoint.encoder_sha256, str(paths.STAGE_TWO))
    model = checkpoint.build().to(resolve_device(params.device)).eval()
    studies, table = inputs.studies("test"), inputs.split_table("test")
    others = studies.with_images_of(derangement(len(studies), params.seed))
    for images, path, what in (
        (studies, paths.PREDICTIONS, "generate"),
        (others, paths.SHUFFLED_PREDICTIONS, "generate, shuffled images"),
    ):
        write_predictions(
            path, predict(model, images, table, inputs.vocabulary, params.decode, what)
        )

    references = {split: texts(inputs.studies(split), inputs) for split in ("train", "val")}
    constant = constant_report(
        references["train"],
        references["val"],
        select_by=params.train.select_by,
        candidates=params.evaluate.constant_candidates,
    )
    predictions = read_predictions(paths.PREDICTIONS)
    constants = [Prediction(**{**vars(p), "generated": constant}) for p in predictions]
    metrics = {
        **score_protocols(predictions),
        "constant_report": score_protocols(constants),
        "shuffled_images": score_protocols(read_predictions(paths.SHUFFLED_PREDICTIONS)),
        "text": text_statistics(predictions),
        "checkpoint_epoch": checkpoint.epoch,
    }
    write_json(paths.METRICS, metrics)
    write_json(
        paths.PROTOCOL,
        {
            "protocols": PROTOCOLS,
            "decode": params.decode.model_dump(),
            "max_length": params.report.max_length,
            "constant_report": constant,
            "constant_report_chosen_by": f"validation {params.train.select_by}",
            "shuffled_images": "the same model, each study given another study's images",
        },
    )
    print_table(metrics)


def predict(
    model: UAR,
    studies: Studies,
    table: pd.DataFrame,
    vocabulary: Vocabulary,
    params: DecodeParams,
    what: str,
) -> list[Prediction]:
    """Generate a report for each study; `table` has their ids and raw reports, in order."""
    device = model.head.weight.device
    generated = []
    tables = model.tables()
    batches = studies.batches(params.batch_size)
    total = -(-len(studies) // params.batch_size)
    for batch in tqdm(batches, desc=what, total=total, unit="batch"):
        batch = batch.to(device)
        generated += generate(
            model, batch.visual, params.beam_size, params.length_penalty, tables, batch.present
        )
    return [
        Prediction(
            study_id=study_id,
            report=report,
            reference=vocabulary.decode(ids),
            generated=vocabulary.decode(beam.ids),
            log_probability=beam.log_probability,
        )
        for study_id, report, ids, beam in zip(
            table["study_id"], table["report"], studies.reports.tolist(), generated, strict=True
        )
    ]


def texts(studies: Studies, inputs: Inputs) -> list[str]:
    """Reference reports as the `r2gen` protocol scores them."""
    return [inputs.vocabulary.decode(row) for row in studies.reports.tolist()]


def print_table(metrics: dict) -> None:
    """The closing table: this model, the constant report and the shuffled control."""
    rows = {
        "this model": metrics,
        "constant report": metrics["constant_report"],
        "shuffled images": metrics["shuffled_images"],
    }
    columns = list(metrics["r2gen"])
    table = Table(title="test split", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for protocol in ("r2gen", "coco"):
        table.add_row(f"[bold]{protocol} protocol")
        for name, scores in rows.items():
            values = [scores[protocol][column] for column in columns]
            table.add_row(f" {name}", *("-" if v is None else f"{v:.3f}" for v in values))
    console = Console()
    console.print(table)
    text = metrics["text"]
    console.print(
        f"{text['distinct_reports']} distinct reports, {text['words_used']} words used, "
        f"{text['mean_length']:.1f} words a report (references: {text['reference_words']} words, "
        f"{text['reference_mean_length']:.1f} a report)"
    )
