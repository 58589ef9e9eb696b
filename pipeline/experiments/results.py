"""Measured runs beside the paper's numbers: gathered, averaged over seeds, written as tables."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from pipeline import paths
from pipeline.experiments.dvc import DATA_ONLY, Experiment
from pipeline.experiments.rows import SEED, Ablations, digest, flat
from uar.core.errors import UserError
from uar.core.files import read_json, write_json
from uar.evaluation.metrics import METRICS
from uar.evaluation.published import published_alignment_scores, read_published

TABLE_PROTOCOL = "r2gen"  # the one of the paper's tables
WHERE_NOT_WHAT = (  # same numbers elsewhere
    "device",
    "workers",
    "train.strategy",
    "dataset.root",
    "dataset.preset",
)
COLUMNS = (
    "setting", "dataset", "table", "row", "metric", "mean", "sd", "paper",
    "seeds", "commits", "devices", "seconds", "params",
)  # fmt: skip
EVIDENCE = {  # heading to where a result has it: `metrics` or `analysis`, and keys
    "CIDEr": "metrics r2gen CIDEr",
    "CIDEr, another study's images": "metrics shuffled_images r2gen CIDEr",
    "distinct reports": "metrics text distinct_reports",
    "clinical micro F1": "metrics clinical micro F1",
    "clinical macro F1": "metrics clinical macro F1",
    "alignment score": "analysis alignment stage_two score",
    "alignment score, true pairs": "analysis alignment stage_two score_true_pairs",
    "R@5, image to report": "analysis retrieval image_to_report R@5",
    "median rank": "analysis retrieval image_to_report median_rank",
    "pointing, chance": "analysis grounding chance pointing",
    "pointing without TIR": "analysis grounding without_TIR pointing",
    "pointing with TIR": "analysis grounding with_TIR pointing",
}
ALIGNMENT = "alignment score"  # which the paper has too, in Figure 4 (a)
CONTROLS = {"constant report": "constant_report", "another study's images": "shuffled_images"}


@dataclass(frozen=True)
class Result:
    """A finished run; as JSON, what a file in results/ holds.

    Attributes:
        experiment: its name.
        commit: the commit it was made from, in hex.
        finished: time stamp, ISO 8601.
        seed: of the training stages.
        device: that stage two was trained on.
        seconds: of both training stages, by the clock; None where it was not recorded.
        params: params.yaml, nested; without dataset.root, which is of one machine.
        metrics: evaluation/metrics.json.
        analysis: analysis/metrics.json; empty if that stage did not run.
    """

    experiment: str
    commit: str
    finished: str
    seed: int
    device: str
    seconds: float | None
    params: dict[str, Any]
    metrics: dict[str, Any]
    analysis: dict[str, Any]

    @classmethod
    def of_experiment(cls, experiment: Experiment) -> Result | None:
        """None if it is not finished, or if it did not train and evaluate."""
        metrics = experiment.metrics.get(str(paths.METRICS))
        runs = [experiment.metrics.get(f"{paths.LOGS}/stage_{n}/run.json") for n in ("one", "two")]
        seed = flat(experiment.params).get(SEED)
        params = deepcopy(experiment.params)
        params.get("dataset", {}).pop("root", None)
        inherited = experiment.name.startswith(DATA_ONLY)  # the metrics that its commit holds
        if inherited or experiment.state != "success" or metrics is None or seed is None:
            return None
        one, two = runs
        if one is None or two is None:
            return None
        return cls(
            experiment=experiment.name,
            commit=experiment.commit,
            finished=experiment.finished,
            seed=seed,
            device=two["device"],
            seconds=one["seconds"] + two["seconds"],
            params=params,
            metrics=metrics,
            analysis=experiment.metrics.get(str(paths.ANALYSIS), {}),
        )

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read a result file.

        Raises:
            UserError: it is not one.
        """
        raw, names = read_json(path), [field.name for field in fields(cls)]
        if not isinstance(raw, dict) or set(raw) != set(names):
            found = sorted(raw) if isinstance(raw, dict) else type(raw).__name__
            raise UserError(
                f"{path}: expected an object with {names}, found {found}. "
                "`python -m pipeline compare --save` writes such files."
            )
        return cls(**raw)

    def save(self, folder: Path) -> None:
        """Write to a file named after data set and experiment."""
        write_json(
            folder / f"{self.params['dataset']['name']}-{self.experiment}.json", asdict(self)
        )


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their row and seed alone.

    Attributes:
        params: what they share, flat.
        models: for each model of `Ablations.models`, its runs, one for each seed.
    """

    params: dict[str, Any]
    models: dict[str, list[Result]]

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.params["dataset.name"]

    @property
    def id(self) -> str:
        """Stands for `params`."""
        return digest(self.params)


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation over seeds; None where there is none."""

    mean: float | None
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Cell:
        """No mean where a seed lacks its score, no deviation of one seed."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return cls(None, None)
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)

    def __str__(self) -> str:
        spread = "" if self.sd is None else f" ± {self.sd:.3f}"
        return f"{_number(self.mean)}{spread}"


def group(results: Iterable[Result], ablations: Ablations) -> list[Setting]:
    """Settings by data set; of runs that share all but their time, the last one."""
    latest: dict[str, dict[tuple[str, int], Result]] = {}
    shared: dict[str, dict[str, Any]] = {}
    for result in sorted(results, key=lambda result: result.finished):
        params = flat(result.params)
        model = ablations.name_of(params)
        if model is None:
            continue
        apart = {*ablations.whole, *WHERE_NOT_WHAT, SEED}
        common = {key: value for key, value in sorted(params.items()) if key not in apart}
        setting = digest(common)
        shared[setting] = common
        latest.setdefault(setting, {})[model, result.seed] = result
    settings: list[Setting] = []
    for setting, runs in latest.items():
        models: dict[str, list[Result]] = {}
        for (model, _), result in sorted(runs.items()):
            models.setdefault(model, []).append(result)
        settings.append(Setting(shared[setting], models))
    return sorted(settings, key=lambda setting: (setting.dataset, setting.id))


def evidence(runs: Iterable[Result], heading: str) -> list[float | None]:
    """A value of `EVIDENCE` of each run; None where its model or data set has none."""
    attribute, *keys = EVIDENCE[heading].split()
    values = []
    for run in runs:
        value = getattr(run, attribute)
        for key in keys:
            value = None if value is None else value.get(key)
        values.append(value)
    return values


def scores(runs: Iterable[Result], metric: str, system: str | None = None) -> list[float | None]:
    """One score of each run: its model's, or that of a baseline or control in its metrics."""
    return [
        (run.metrics[system] if system else run.metrics)[TABLE_PROTOCOL].get(metric) for run in runs
    ]


# ---- CSV


def csv_text(settings: list[Setting], ablations: Ablations) -> str:
    """One line for each cell of each table; Table 1's first."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for dataset in ("iu_xray", "mimic_cxr"):
        for system, values in read_published(f"table1_{dataset}").items():
            for metric, paper in values.items():
                cells = {"dataset": dataset, "table": "table1", "row": system, "metric": metric}
                writer.writerow({**cells, "paper": "" if paper is None else paper})
    for setting in settings:
        for name, table in ablations.tables.items():
            published = read_published(table.published)
            for row, overrides in table.rows.items():
                runs = setting.models.get(ablations.name_of(overrides) or "", [])
                for metric in METRICS:
                    cell = Cell.of(scores(runs, metric))
                    writer.writerow(
                        {
                            "setting": setting.id,
                            "dataset": setting.dataset,
                            "table": name,
                            "row": row,
                            "metric": metric,
                            "mean": cell.mean,
                            "sd": cell.sd,
                            "paper": published[row][metric],
                            "params": changes(overrides, ablations.whole),
                            **provenance(runs),
                        }
                    )
        for model, overrides in ablations.models(ablations.tables).items():
            runs = setting.models.get(model, [])
            for heading in EVIDENCE:
                cell = Cell.of(evidence(runs, heading))
                writer.writerow(
                    {
                        "setting": setting.id,
                        "dataset": setting.dataset,
                        "table": "evidence",
                        "row": model,
                        "metric": heading,
                        "mean": cell.mean,
                        "sd": cell.sd,
                        "paper": published_evidence(model, heading),
                        "params": changes(overrides, ablations.whole),
                        **provenance(runs),
                    }
                )
    return stream.getvalue()


def published_evidence(model: str, heading: str) -> float | None:
    """What the paper prints of it."""
    return published_alignment_scores().get(model) if heading == ALIGNMENT else None


def provenance(runs: Sequence[Result]) -> dict[str, str]:
    """Seeds, commits, devices and the mean time of runs."""
    times = [run.seconds for run in runs if run.seconds is not None]
    return {
        "seeds": " ".join(str(run.seed) for run in runs),
        "commits": " ".join(sorted({run.commit[:10] for run in runs})),
        "devices": ", ".join(sorted({run.device for run in runs})),
        "seconds": "" if len(times) < len(runs) or not times else f"{statistics.fmean(times):.0f}",
    }


def changes(overrides: dict[str, Any], whole: dict[str, Any]) -> str:
    """What a row changes in the whole model, as `key=value` words."""
    changed = {key: value for key, value in overrides.items() if whole[key] != value}
    return " ".join(f"{key}={_yaml(v)}" for key, v in changed.items())


# ---- Markdown

_HEAD = """# Results

Written by `python -m pipeline compare`; RESULTS.csv beside it has every digit. Test split, protocol
`r2gen`: ours as mean ± sample standard deviation over training seeds, the paper's number as printed
in brackets. The paper's Tables 2-4 are of IU X-Ray at full size, whatever ours are of. Time is that
of both training stages by the clock, mean over seeds. – is a number that nobody has. Alignment,
retrieval and pointing game are of the validation split (`analyze`); the paper's alignment scores
are those of its Figure 4 (a).
"""


def markdown(settings: list[Setting], ablations: Ablations) -> str:
    """The page: Table 1 with every setting's whole model, then Tables 2-4 of each setting."""
    parts = [_HEAD]
    for dataset, title in (("iu_xray", "IU X-Ray"), ("mimic_cxr", "MIMIC-CXR")):
        parts.append(f"## Table 1: {title}\n")
        own = [setting for setting in settings if setting.dataset == dataset]
        parts.append(_table(["", *METRICS, "seeds"], _table_one(dataset, own, ablations)))
    for setting in settings:
        parts.append(f"## {setting.dataset}, setting {setting.id}\n")
        listed = "".join(f"{key}: {_yaml(value)}\n" for key, value in setting.params.items())
        parts.append(
            "<details><summary>parameters that its rows share</summary>\n\n"
            f"```yaml\n{listed}```\n\n</details>\n"
        )
        for table in ablations.tables.values():
            parts.append(f"### {table.title}\n")
            head = ["", *METRICS, "seeds", "commit", "device", "time", "params"]
            parts.append(_table(head, _rows(setting, table.published, table.rows, ablations)))
        parts.append("### Evidence beyond the paper's tables\n")
        parts.append(_table(["", *EVIDENCE, "seeds"], _evidence_rows(setting, ablations)))
    return "\n".join(parts)


def _table_one(
    dataset: str, settings: list[Setting], ablations: Ablations
) -> Iterator[Sequence[str]]:
    for system, values in read_published(f"table1_{dataset}").items():
        yield [system, *(f"({_number(values[metric])})" for metric in METRICS), ""]
    for setting in settings:
        runs = setting.models.get(ablations.name_of(ablations.whole) or "", [])
        systems: dict[str, str | None] = {"UAR, this project": None, **CONTROLS}
        for label, key in systems.items():
            cells = [str(Cell.of(scores(runs, metric, key))) for metric in METRICS]
            yield [f"{label}, {setting.id}", *cells, provenance(runs)["seeds"]]


def _rows(
    setting: Setting, published: str, rows: dict[str, dict[str, Any]], ablations: Ablations
) -> Iterator[Sequence[str]]:
    paper = read_published(published)
    for row, overrides in rows.items():
        runs = setting.models.get(ablations.name_of(overrides) or "", [])
        cells = [
            f"{Cell.of(scores(runs, metric))} ({_number(paper[row][metric])})" for metric in METRICS
        ]
        run = provenance(runs)
        time = f"{run['seconds']} s" if run["seconds"] else ""
        made = [run["seeds"], run["commits"], run["devices"], time]
        yield [row, *cells, *made, changes(overrides, ablations.whole)]


def _evidence_rows(setting: Setting, ablations: Ablations) -> Iterator[Sequence[str]]:
    for model in ablations.models(ablations.tables):
        if runs := setting.models.get(model):
            cells = []
            for heading in EVIDENCE:
                paper = published_evidence(model, heading)
                printed = "" if paper is None else f" ({_number(paper)})"
                cells.append(f"{Cell.of(evidence(runs, heading))}{printed}")
            yield [model, *cells, provenance(runs)["seeds"]]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
