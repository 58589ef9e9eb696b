"""`uar`: write reports on films with an exported model, without the pipeline that trained it."""

from __future__ import annotations

import logging
import os
from typing import Annotated

import typer

import uar
from uar.command.report import report
from uar.command.serve import serve
from uar.core.errors import ended_with_a_sentence
from uar.core.refusals import errors_explained
from uar.core.threads import limit_spinning

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.command()(errors_explained()(report))
app.command()(errors_explained()(serve))


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"uar {uar.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Draft reports of chest films, by a model that `dvc repro export` made. Research use only."""
    limit_spinning(os.environ)  # before torch is loaded
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("uar")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)


def main() -> None:
    """Run the command; bad input ends it with one sentence and exit status 1."""
    advice = "pip install 'uar[pipeline]' installs everything that any model needs."
    with ended_with_a_sentence(("uar",), advice):
        app(prog_name="uar")
