"""Measured runs, gathered from experiments and results/runs and grouped, but never across code."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.experiments.dvc import DATA_ONLY, Experiment, code_of, is_clean, read_file
from pipeline.experiments.rows import SEED, Ablations, digest, flat
from pipeline.provenance import OUTSIDE, listed
from uar.core.config import OF_SAMPLES
from uar.core.errors import UserError, form_of
from uar.core.files import write_text
from uar.core.runs import read_runs
from uar.evaluation.metrics import Metric
from uar.evaluation.summary import is_collapsed, look_up
from uar.evaluation.systems import recorded_metrics

OF_THE_MACHINE = (  # parameters that change no number
    "device",
    "dataset.root",
)
PER_STUDY = "per_study"  # in details.json, see `uar.evaluation.systems.per_study`
_OF_STAGE_THREE = "train.stage_three."
_OF_SAMPLES = frozenset(f"decode.{name}" for name in OF_SAMPLES)
# In addition to what an epoch is chosen by; only stage three has F1.
CURVES = ("cross_entropy", "image_gain", "distinct_reports", "F1")
STAGES = ("stage_one", "stage_two", "stage_three")


@dataclass(frozen=True)
class Result:
    """A finished run, one line in results/runs. None stands for what was not recorded.

    Attributes:
        experiment: its name.
        commit: the commit it was made from, in hex.
        clean: whether its code was that of the commit.
        code: hash of the stages' code.
        data: hash of reports and tokens.
        finished: time stamp, ISO 8601.
        seed: of the training stages.
        device: the one that the last training stage ran on.
        seconds: wall time of all training stages.
        params: params.yaml, nested; without dataset.root, which belongs to one machine.
        details: evaluation/details.json: scores, signatures, selection, packages.
        analysis: analysis/details.json; empty if that stage did not run.
        curves: validation values: stage -> metric -> `[epoch, value]` for each epoch that has it.
    """

    experiment: str
    commit: str
    clean: bool | None
    code: str | None
    data: str | None
    finished: str
    seed: int
    device: str | None
    seconds: float | None
    params: dict[str, Any]
    details: dict[str, Any]
    analysis: dict[str, Any]
    curves: dict[str, dict[str, list[list[float]]]] | None

    @classmethod
    def of_experiment(cls, experiment: Experiment) -> Result | None:
        """Read an experiment's result; None if it is unfinished or did not train and evaluate."""
        inherited = experiment.name.startswith(DATA_ONLY)  # its metrics are its commit's
        seed = flat(experiment.params).get(SEED)
        if inherited or experiment.state != "success" or seed is None:
            return None
        if str(paths.METRICS) not in experiment.metrics:
            return None
        details = _json_at(experiment.rev, paths.DETAILS)
        if details is None:
            return None
        run = read_runs(paths.RUN_LOG).get(details["checkpoint_sha256"])
        return cls(
            experiment=experiment.name,
            commit=experiment.commit,
            clean=is_clean(experiment.commit, experiment.rev),
            code=code_of(experiment.rev),
            data=digest(details["data_sha256"]),
            finished=experiment.finished,
            seed=seed,
            device=run.device if run else None,
            seconds=run.seconds if run else None,
            params=without_places(experiment.params),
            details=without_reports(details),
            analysis=_json_at(experiment.rev, paths.ANALYSIS_DETAILS) or {},
            curves=curves(details, lambda path: read_file(experiment.rev, path)),
        )

    @property
    def epoch(self) -> str:
        """The last training stage's chosen epoch, as `7/10` where its epochs were recorded."""
        chosen = str(self.details["selection"]["epoch"])
        trained = [stage for stage in STAGES if stage in (self.curves or {})]
        last = (self.curves or {})[trained[-1]].get("cross_entropy") if trained else None
        return f"{chosen}/{last[-1][0]:.0f}" if last else chosen

    @property
    def collapsed(self) -> bool:
        """Whether the run collapsed, by the rule of `uar.evaluation.summary`."""
        return is_collapsed(self.details)


def without_places(params: Mapping[str, Any]) -> dict[str, Any]:
    """Nested parameters without paths of one machine; of weight files, the names stay."""
    kept = deepcopy(dict(params))
    kept.get("dataset", {}).pop("root", None)
    for key in OUTSIDE:
        *sections, name = key.split(".")
        section: Any = kept
        for part in sections:
            section = section.get(part, {})
        if value := section.get(name):
            names = [Path(path).name for path in listed(value)]
            section[name] = names if isinstance(value, list) else names[0]
    return kept


def without_reports(details: Mapping[str, Any]) -> dict[str, Any]:
    """details.json without the constant report: it is from the data set, so not for git to keep."""
    kept = deepcopy(dict(details))
    kept.get("systems", {}).get("constant_report", {}).pop("report", None)
    return kept


def curves(
    details: Mapping[str, Any], read: Callable[[Path], bytes | None]
) -> dict[str, dict[str, list[list[float]]]]:
    """The validation values that show how each training stage's epoch was chosen: `Result.curves`.

    Args:
        details: evaluation/details.json.
        read: returns a file of the run, or None if there is no such file.
    """
    metrics = dict.fromkeys((details["selection"]["by"], *CURVES))
    found: dict[str, dict[str, list[list[float]]]] = {}
    for stage in STAGES:
        for metric in metrics:
            content = read(paths.LOGS / stage / "plots" / "metrics" / "val" / f"{metric}.tsv")
            if content is not None:
                rows = [line.split("\t") for line in content.decode().splitlines()[1:]]
                found.setdefault(stage, {})[metric] = [[int(e), float(value)] for e, value in rows]
    return found


def _json_at(rev: str, path: Path) -> dict[str, Any] | None:
    content = read_file(rev, path)
    return None if content is None else json.loads(content)


def read_results(folder: Path) -> list[Result]:
    """Read all lines of a folder's files; there are none if there is no such folder.

    Raises:
        UserError: a line is not a result.
    """
    return [
        _parse(line, f"{path}, line {number}")
        for path in sorted(folder.glob("*.jsonl"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    ]


def _parse(line: str, where: str) -> Result:
    names = [field.name for field in fields(Result)]
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); restore it.") from None
    if not isinstance(raw, dict) or sorted(raw) != sorted(names):
        found = sorted(raw) if isinstance(raw, dict) else form_of(raw)
        raise UserError(
            f"{where}: expected an object with {names}, found {found}. "
            "`python -m pipeline compare --save` appends such lines."
        )
    return Result(**raw)


def append_results(folder: Path, results: Iterable[Result]) -> None:
    """Append lines to one file per data set and code; existing lines stay as they are."""
    lines: dict[Path, list[str]] = {}
    for result in results:
        name = f"{result.params['dataset']['name']}-{result.code or result.commit[:10]}.jsonl"
        line = json.dumps(asdict(result), ensure_ascii=False) + "\n"
        lines.setdefault(folder / name, []).append(line)
    for path, new in lines.items():
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        write_text(path, old + "".join(new))


@dataclass(frozen=True)
class Setting:
    """Runs that differ only in row and seed: same parameters, code and data.

    Attributes:
        params: the parameters that they share, flat.
        code: hash of their code; where none was recorded, the word `commit` and the commit.
        data: hash of their data, where one was recorded.
        models: for each model of `Ablations.models`, its runs, one for each seed.
        scored_before: other recipes (parameters that are not a row's, or code) whose scores on this
            data set's test split were known before the first of these runs was finished.
    """

    params: dict[str, Any]
    code: str
    data: str | None
    models: dict[str, list[Result]]
    scored_before: int = 0

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.params["dataset.name"]

    @property
    def id(self) -> str:
        """Hash of parameters, code and data."""
        return digest([self.params, self.code, self.data])

    def runs_of(self, overrides: dict[str, Any], ablations: Ablations) -> list[Result]:
        """Runs of the row that has these overrides; none where it was not run."""
        return self.models.get(ablations.name_of(overrides) or "", [])

    @property
    def runs(self) -> list[Result]:
        """Every run, row by row."""
        return [run for runs in self.models.values() for run in runs]


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation over seeds; None where there is none."""

    mean: float | None
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Cell:
        """Summarise values: no mean where a seed lacks its score, no deviation for one seed."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return cls(None, None)
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)

    def __str__(self) -> str:
        spread = "" if self.sd is None else f" ± {self.sd:.3f}"
        return "–" if self.mean is None else f"{self.mean:.3f}{spread}"


def group(results: Iterable[Result], ablations: Ablations) -> list[Setting]:
    """Settings by data set and time, oldest first; of runs that differ only in time, the last."""
    latest: dict[str, dict[tuple[str, int], Result]] = {}
    bare: dict[str, Setting] = {}  # without runs
    for result in sorted(results, key=lambda result: result.finished):
        params = flat(result.params)
        model = ablations.name_of(params)
        if model is None:
            continue
        apart = {*ablations.whole, *OF_THE_MACHINE, SEED}
        common = {key: value for key, value in sorted(params.items()) if key not in apart}
        if common.get("arithmetic") == "native":  # as in records from before there was a choice
            del common["arithmetic"]
        if common.get("decode.choose") == "beam":  # likewise
            common = {k: v for k, v in common.items() if k not in _OF_SAMPLES}
        if common.get(f"{_OF_STAGE_THREE}epochs") == 0:  # likewise
            common = {k: v for k, v in common.items() if not k.startswith(_OF_STAGE_THREE)}
        setting = Setting(common, result.code or f"commit {result.commit[:10]}", result.data, {})
        bare[setting.id] = setting
        latest.setdefault(setting.id, {})[model, result.seed] = result
    settings: list[Setting] = []
    for key, runs in latest.items():
        models: dict[str, list[Result]] = {}
        for (model, _), result in sorted(runs.items()):
            models.setdefault(model, []).append(result)
        before = sum(other.dataset == bare[key].dataset for other in settings)  # by time
        settings.append(replace(bare[key], models=models, scored_before=before))
    return sorted(settings, key=lambda setting: setting.dataset)


def values(runs: Iterable[Result], path: str) -> list[float | None]:
    """Each run's value at a path of keys; None where its model or data set has none."""
    return [look_up({"details": run.details, "analysis": run.analysis}, path) for run in runs]


def provenance(runs: Sequence[Result]) -> dict[str, str]:
    """Seeds, chosen epochs, commits, state of the trees, devices and the mean time of runs."""
    times = [run.seconds for run in runs if run.seconds is not None]
    trees = {"?" if run.clean is None else "clean" if run.clean else "changed" for run in runs}
    return {
        "seeds": " ".join(str(run.seed) for run in runs),
        "selected_by": " ".join(sorted({run.details["selection"]["by"] for run in runs})),
        "epochs": " ".join(run.epoch for run in runs),
        "commits": " ".join(sorted({run.commit[:10] for run in runs})),
        "tree": ", ".join(sorted(trees)),
        "devices": ", ".join(sorted({run.device or "?" for run in runs})),
        "seconds": "" if len(times) < len(runs) or not times else f"{statistics.fmean(times):.0f}",
    }


def recorded_scores(runs: Sequence[Result]) -> dict[tuple[str, str], list[Metric]]:
    """The per-study scores that every run recorded, by group and metric: one `Metric` per run.

    The runs are of one setting, and so of the same studies in the same order. Runs that were scored
    before such records were kept have none.
    """
    of_runs = [recorded_metrics(run.details.get(PER_STUDY, {})) for run in runs]
    return {
        key: [metrics[key] for metrics in of_runs]
        for key in (of_runs[0] if of_runs else ())
        if all(key in metrics for metrics in of_runs)
    }


def collapsed(runs: Sequence[Result]) -> str:
    """A row name's suffix ` †` with the number of collapsed runs; empty if there are none."""
    count = sum(run.collapsed for run in runs)
    return f" †{count}/{len(runs)}" if count else ""
