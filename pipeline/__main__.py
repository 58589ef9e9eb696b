"""`python -m pipeline STAGE`: every stage as a command, with the same result as under DVC."""

import sys

import typer

from pipeline.ablate import ablate
from pipeline.analyze import analyze
from pipeline.check_labeller import check_labeller
from pipeline.compare import compare
from pipeline.dvae import dvae
from pipeline.evaluate import evaluate
from pipeline.ingest import ingest
from pipeline.preprocess import preprocess
from pipeline.tokenize import tokenize
from pipeline.train_stage_one import train_stage_one
from pipeline.train_stage_two import train_stage_two
from pipeline.use import use
from pipeline.vocabulary import vocabulary
from uar.core.errors import UserError

app = typer.Typer(
    help="UAR, stage by stage. `dvc repro` runs what has changed, in this order.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for stage in (
    ingest,
    preprocess,
    vocabulary,
    dvae,
    tokenize,
    train_stage_one,
    train_stage_two,
    evaluate,
    analyze,
):
    app.command(stage.__name__, rich_help_panel="Stages")(stage)
for command in (ablate, compare, check_labeller):
    app.command(command.__name__, rich_help_panel="Evidence")(command)
app.command(rich_help_panel="Configuration")(use)

if __name__ == "__main__":
    try:
        app(prog_name="python -m pipeline")
    except UserError as error:
        sys.exit(f"error: {error}")
