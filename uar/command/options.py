"""Options that both commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BUNDLE = Path("model.uar")  # where export writes it
BundlePath = Annotated[Path, typer.Option(help="The model, a file made by export.")]
Device = Annotated[str, typer.Option(help="auto | cpu | cuda | mps")]
