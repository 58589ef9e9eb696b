"""`python -m pipeline STAGE`: every stage as a command, with the same result as under DVC."""

import sys

import typer

from pipeline.experiments.ablate import ablate
from pipeline.experiments.compare import compare
from pipeline.stages.analyze import analyze
from pipeline.stages.dvae import dvae
from pipeline.stages.evaluate import evaluate
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess
from pipeline.stages.tokenize import tokenize
from pipeline.stages.train_stage_one import train_stage_one
from pipeline.stages.train_stage_two import train_stage_two
from pipeline.stages.vocabulary import vocabulary
from pipeline.tools.check_labeller import check_labeller
from pipeline.tools.use import use
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
