"""What has to be known about a bundle before torch is loaded."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

MANIFEST = "manifest.json"


def arithmetic_of(path: Path) -> tuple[str, int | None]:
    """`arithmetic` and `threads` that a bundle was made with, as params.yaml has them.

    Native if it does not say, or if the file is not a bundle, which loading it will report.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            made = json.loads(archive.read(MANIFEST))["provenance"]
        return str(made["arithmetic"]), made["threads"] and int(made["threads"])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError, RecursionError):
        return "native", None
