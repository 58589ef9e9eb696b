"""RadEval's metrics (Xu et al. 2025, https://github.com/jbdel/RadEval), in its own environment.

It needs other versions of spaCy and numpy than this project, so it cannot be imported here.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline import paths
from uar.core.errors import UserError
from uar.evaluation.formats import as_prose
from uar.evaluation.predictions import Prediction

log = logging.getLogger(__name__)

VERSION = "2.2.1"
METRICS = {  # metric -> what RadEval fetches for it from the hub, once
    "bleu": "",
    "rouge": "",
    "bertscore": "distilbert-base-uncased",
    "radeval_bertscore": "IAMJB/RadEvalModernBERT",
    "f1chexbert": "StanfordAIMI/RRG_scorers (chexbert.pth) and bert-base-uncased",
    "radgraph": "StanfordAIMI/RRG_scorers (radgraph-xl.tar.gz) and the transformer that it names",
    "radcliq": "StanfordAIMI/RRG_scorers (radgraph.tar.gz, chexbert.pth), bert-base-uncased and "
    "distilroberta-base",
    "ratescore": "Angelakeke/RaTE-NER-Deberta and FremyCompany/BioLORD-2023-C",
    "srrbert": "StanfordAIMI/SRRG-BERT-Upper-with-Statuses",
    "temporal": "stanza's English radiology models",
    "green": "StanfordAIMI/GREEN-radllama2-7b",
}  # those that send reports to a company's server (crimson, radfact_ct, mammo_green) are left out
_HERE = Path(__file__).parent
_RUNNER, _PINNED = _HERE / "radeval_runner.py", _HERE / "radeval.txt"
_MADE = "made-for-uar"  # a file in the environment once it is complete
_REPAIRS = (  # for what version 2.2.1 cannot do by itself
    ("RadEval.metrics", "radeval.metrics"),  # RadGraph, where file names are case-sensitive
    (  # CheXbert without a GPU
        'torch.device] = "cuda",',
        'torch.device] = "cuda" if torch.cuda.is_available() else "cpu",',
    ),
)
_LINES = 5  # shown of the end of a failed program's output


@dataclass(frozen=True)
class RadEval:
    """The requested metrics, and the Python that can compute them."""

    python: Path
    metrics: tuple[str, ...]

    @classmethod
    def open(cls, names: str) -> RadEval:
        """Make the environment unless it exists.

        Args:
            names: metrics, separated by commas.

        Raises:
            UserError: RadEval lacks a metric or it is not offered here, or pip fails.
        """
        metrics = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
        unknown = [name for name in metrics if name not in METRICS]
        if unknown or not metrics:
            found = f"no metric {unknown[0]!r}" if unknown else "no metric is named"
            raise UserError(f"--radeval: {found}; available: {', '.join(METRICS)}.")
        if not (paths.RADEVAL / _MADE).is_file():
            make_environment(paths.RADEVAL)
        return cls(paths.RADEVAL.absolute() / "bin" / "python", metrics)

    def score(self, systems: Mapping[str, Sequence[Prediction]]) -> dict[str, dict[str, float]]:
        """RadEval's scores of each system, for raw references and generated reports as prose.

        Raises:
            UserError: a metric cannot be computed; its weights, where it has any, are named.
        """
        texts = {
            name: {
                "references": [" ".join(p.report.split()) for p in rows],
                "hypotheses": [as_prose(p.generated) for p in rows],
            }
            for name, rows in systems.items()
        }
        with TemporaryDirectory() as folder:
            request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
            request.write_text(
                json.dumps({"metrics": self.metrics, "systems": texts}), encoding="utf-8"
            )
            _run([self.python, "-P", _RUNNER, request, answer], "RadEval")
            found = json.loads(answer.read_text(encoding="utf-8"))
        if "fault" in found:
            metric = found["metric"]
            needs = METRICS[metric] and (
                f" It fetches {METRICS[metric]} from the hub, once; without a network, put them "
                "into its cache (HF_HOME, by default ~/.cache/huggingface) and set "
                "HF_HUB_OFFLINE=1."
            )
            raise UserError(f"RadEval's {metric} cannot be computed: {found['fault']}{needs}")
        if found["version"] != VERSION:
            raise UserError(
                f"{paths.RADEVAL} holds RadEval {found['version']}, not {VERSION}; remove the "
                "folder, and the same command makes it again."
            )
        return found["scores"]


def make_environment(folder: Path) -> None:
    """Make a virtual environment with RadEval and the packages it is known to run with.

    Raises:
        UserError: pip cannot install them.
    """
    log.info(f"making {folder}, once: RadEval {VERSION} in an environment of its own, 7 GB")
    try:
        _run([sys.executable, "-m", "venv", "--clear", folder], "venv")
        python = folder / "bin" / "python"
        pinned = ["--constraint", str(_PINNED)]
        _run([python, "-m", "pip", "install", "--quiet", f"radeval=={VERSION}", *pinned], "pip")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for file in folder.glob("lib/python*/site-packages/radeval/**/*.py"):
        text = repaired = file.read_text(encoding="utf-8")
        for fault, remedy in _REPAIRS:
            repaired = repaired.replace(fault, remedy)
        if repaired != text:
            file.write_text(repaired, encoding="utf-8")
    (folder / _MADE).write_text(f"{VERSION}\n", encoding="utf-8")


def _run(command: Sequence[str | Path], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-_LINES:])
        raise UserError(f"{what} failed ({done.returncode}):\n{said}")
