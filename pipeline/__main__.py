"""`python -m pipeline COMMAND`: every stage as a command, with the same result as under DVC.

A command's module is imported when it is called: `--help` reads the summaries from the files.
"""

from __future__ import annotations

import ast
import io
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from pipeline import paths
from pipeline.run import as_stage
from uar.core.arithmetic import set_up
from uar.core.errors import UserError, ended_with_a_sentence
from uar.core.refusals import errors_explained
from uar.core.threads import limit_spinning

COMMANDS: dict[
    str, dict[str, tuple[str, ...]]
] = {  # heading in --help -> package -> modules, each with a function of its own name
    "Stages": {
        "pipeline.stages": (
            "ingest",
            "preprocess",
            "vocabulary",
            "dvae",
            "tokenize",
            "probe",
            "judge",
            "train_stage_one",
            "train_stage_two",
            "train_stage_three",
            "evaluate",
            "export",
            "dvae_decoder",
            "analyze",
        )
    },
    "Evidence": {
        "pipeline.experiments": ("ablate", "compare"),
        "pipeline.tools": ("tune", "score", "export_predictions", "check_labeller"),
    },
    "Configuration": {"pipeline.tools": ("use", "doctor", "push")},
    "Development": {"pipeline.tools": ("layout",)},
}
_MODULES = {
    name: (f"{package}.{name}", heading)
    for heading, packages in COMMANDS.items()
    for package, names in packages.items()
    for name in names
}
_LESS_MEMORY = (
    "Smaller batches (tokenize.batch_size, train.accumulate, decode.batch_size) need less."
)
_STYLE: dict[str, Any] = {"pretty_exceptions_enable": False, "add_completion": False}


class LazyCommands(TyperGroup):
    """The commands by name; one is imported only when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order of `COMMANDS`."""
        return list(_MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """A command's name and summary, for --help."""
        if cmd_name not in _MODULES:
            return None
        module, heading = _MODULES[cmd_name]
        return TyperCommand(cmd_name, help=_summary(module), rich_help_panel=heading)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command itself."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_command(name or ""), rest


def load_command(name: str) -> Any:
    """Import a command, along with torch if it needs that."""
    module, heading = _MODULES[name]
    limit_spinning(os.environ)
    if heading in ("Stages", "Evidence"):
        set_up_arithmetic(paths.PARAMS)
    function = getattr(import_module(module), name)
    if heading == "Stages":
        function = as_stage(name, function)
    alone = typer.Typer(**_STYLE)
    alone.command(name)(errors_explained(_LESS_MEMORY)(function))
    return typer.main.get_command(alone)


def set_up_arithmetic(path: Path) -> None:
    """Make libraries compute as params.yaml says, before they are loaded.

    A stage refuses to run if that is impossible (`pipeline.run`).
    """
    from uar.core.params_file import load_params

    with suppress(UserError, OSError):  # the command itself says what is wrong with the file
        params = load_params(path)
        set_up(os.environ, params.arithmetic, params.threads)


def _summary(module: str) -> str:
    """The docstring of the function that a module is named after."""
    path = Path(__file__).parents[1] / f"{module.replace('.', '/')}.py"
    name = path.stem
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node) or ""
    raise LookupError(f"{path} has no function {name}")


app = typer.Typer(cls=LazyCommands, no_args_is_help=True, **_STYLE)


@app.callback()
def main() -> None:
    """UAR, stage by stage. `dvc repro` runs what has changed, in this order."""
    from pipeline.console import set_up_logging

    set_up_logging()


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8")  # whatever the locale: files are UTF-8
    advice = (
        "`make venv` installs all that is needed; `python -m pipeline doctor` says what else is "
        "wrong."
    )
    with ended_with_a_sentence(("pipeline", "uar"), advice):
        app(prog_name="python -m pipeline")
