"""A script for RadEval's own Python, which has nothing of this project: texts in, scores out.

    .radeval/bin/python pipeline/tools/radeval_runner.py REQUEST.json ANSWER.json

REQUEST: `{"metrics": [...], "systems": {name: {"references": [...], "hypotheses": [...]}}}`.
ANSWER: `{"version": ..., "scores": {system: {score: value}}}`, or `{"metric": ..., "fault": ...}`.
"""

import json
import sys
from importlib import import_module, metadata
from pathlib import Path


def main(request: Path, answer: Path) -> None:
    """Compute and write the answer."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    radeval = import_module("radeval")
    scores: dict[str, dict[str, float]] = {name: {} for name in asked["systems"]}
    for metric in asked["metrics"]:
        try:
            evaluator = radeval.RadEval(metrics=[metric], show_progress=False)
            for name, texts in asked["systems"].items():
                found = evaluator(refs=texts["references"], hyps=texts["hypotheses"])
                scores[name] |= {score: float(value) for score, value in found.items()}
        except Exception as error:
            fault = f"{type(error).__name__}: {' '.join(str(error).split())}"
            answer.write_text(json.dumps({"metric": metric, "fault": fault}), encoding="utf-8")
            return
    found = {"version": metadata.version("radeval"), "scores": scores}
    answer.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
