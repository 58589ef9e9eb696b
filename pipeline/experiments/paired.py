"""Tests of methods against each other: table rows, experiments, and files of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from pipeline import paths
from pipeline.console import new_table, number, output
from pipeline.experiments.dvc import Experiment, read_file
from pipeline.experiments.results import Result, Setting, recorded_scores
from pipeline.measures import open_measures
from uar.core.config import Params
from uar.core.device import resolve_device
from uar.core.errors import UserError
from uar.evaluation.crossed import Comparison, compare_methods, corrected_p, power
from uar.evaluation.metrics import Metric
from uar.evaluation.predictions import Prediction, read_predictions, refuse_other_studies
from uar.evaluation.systems import NATS, RECORDED, UNITS, score_systems

AGAINST = (*((NATS, name) for name in UNITS), *RECORDED)  # metrics of row tests, in this order

Scores = dict[tuple[str, str], list[Metric]]  # by group and metric, one per run


@dataclass(frozen=True)
class Sources:
    """Where the methods to compare are found.

    Attributes:
        setting: the setting whose rows are meant; None where there is none.
        experiments: this clone's experiments, by name.
        folders: runs made without DVC, by their folder.
    """

    setting: Setting | None
    experiments: Mapping[str, Experiment]
    folders: Mapping[Path, Result]

    @property
    def rows(self) -> dict[str, list[Result]]:
        """Runs of the setting, by row."""
        return {} if self.setting is None else self.setting.models

    def runs(self, source: str) -> list[Path | Experiment | Result]:
        """The runs of the file, experiment or row of this name.

        Raises:
            UserError: there is none.
        """
        if Path(source).is_file():
            return [Path(source)]
        if source in self.experiments:
            return [self.experiments[source]]
        if source in self.rows:
            return list(self.rows[source])
        offered = ", ".join([*self.rows, *sorted(self.experiments)]) or "none"
        raise UserError(
            f"{source!r} is neither a file nor a row or experiment of this clone. Available: "
            f"{offered}."
        )

    def predictions(self, run: Path | Experiment | Result) -> list[Prediction] | None:
        """The predictions in a file, an experiment or a folder; None if they are not here.

        Raises:
            UserError: the file cannot be read.
        """
        if isinstance(run, Path):
            return read_predictions(run)
        if isinstance(run, Result):
            for folder, of_folder in self.folders.items():
                if of_folder == run:
                    return read_predictions(folder / paths.PREDICTIONS)
            made = self.experiments.get(run.experiment)
            if made is None or made.finished != run.finished:
                return None
            run = made
        content = read_file(run.rev, paths.PREDICTIONS)
        if content is None:
            return None
        with NamedTemporaryFile(suffix=f"-{paths.PREDICTIONS.name}") as copy:
            Path(copy.name).write_bytes(content)
            return read_predictions(copy.name)


def print_paired(a: str, b: str, sources: Sources, params: Params) -> None:
    """Print every metric of two methods: difference, 95 % interval and p-value.

    Args:
        a: predictions.jsonl of one system, an experiment, or a row.
        b: the other.
        sources: where experiments and rows are found.
        params: how reports are scored.

    Raises:
        UserError: a source is none of these, or they hold different studies.
    """
    scores = score({name: sources.runs(name) for name in (a, b)}, sources, params)
    tests = compare_methods(scores[a], scores[b])
    corrected = corrected_p(list(tests.values()))
    shown = len(tests)
    table = new_table(
        f"A: {a}\nB: {b}", ["A", "B", "B - A", "95 % interval", "p", "p, Holm", "80 % power"]
    )
    group = ""
    for ((of, name), test), p_value in zip(tests.items(), corrected, strict=True):
        if of != group:
            group = of
            table.add_row(f"[bold]{group}")
        table.add_row(f" {name}", *_cells(test, p_value), number(test.detectable(shown)))
    console = output()
    console.print(table)
    console.print(_method(scores))
    console.print("80 % power: smallest difference that this table could have shown, after Holm.")


def print_against(row: str, sources: Sources, params: Params) -> None:
    """Test every other row against one: a table per metric, p-values corrected over its rows.

    Raises:
        UserError: the row has no finished runs, or there is no other.
    """
    if row not in sources.rows:
        raise UserError(
            f"no finished run of row {row!r} here; rows with one: "
            f"{', '.join(sources.rows) or 'none'}"
        )
    others = [name for name in sources.rows if name != row]
    if not others:
        raise UserError(f"there is no other row to test against {row}; `ablate` runs more")
    scores = score({name: sources.runs(name) for name in (row, *others)}, sources, params)
    results = {name: compare_methods(scores[row], scores[name]) for name in others}
    console = output()
    for key in (key for key in AGAINST if all(key in tests for tests in results.values())):
        group, name = key
        tests = {other: of[key] for other, of in results.items()}
        corrected = corrected_p(list(tests.values()))
        table = new_table(
            f"{name} ({UNITS.get(name, group)}), each row against {row}",
            [row, "row", "row - " + row, "95 % interval", "p", "p, Holm"],
        )
        for (other, test), p_value in zip(tests.items(), corrected, strict=True):
            table.add_row(other, *_cells(test, p_value))
        console.print(table)
        console.print(power(list(tests.values())))
    console.print(f"{_method(scores)} Holm's correction over the rows of each table.")


def score(
    methods: Mapping[str, Sequence[Path | Experiment | Result]], sources: Sources, params: Params
) -> dict[str, Scores]:
    """Every metric of each method's runs; only the recorded ones if any predictions are missing.

    Raises:
        UserError: studies differ, or there are neither predictions nor records of their scores.
    """
    found = {name: [sources.predictions(run) for run in runs] for name, runs in methods.items()}
    absent = [name for name, runs in found.items() if any(rows is None for rows in runs)]
    if absent:
        return _recorded(methods, absent)
    present = {name: [rows for rows in runs if rows is not None] for name, runs in found.items()}
    names = list(present)
    first = present[names[0]][0]
    for name, runs in present.items():
        for rows in runs:
            refuse_other_studies(first, rows, f"{names[0]} and {name}")
    systems = {
        f"{name} {number}": rows
        for name, runs in present.items()
        for number, rows in enumerate(runs)
    }
    measures = open_measures(params.evaluate, resolve_device(params.device))
    scored = {name: of.tested() for name, of in score_systems(systems, measures).items()}
    result: dict[str, Scores] = {}
    for name, runs in present.items():
        of_runs = [scored[f"{name} {number}"] for number in range(len(runs))]
        result[name] = {
            (group, metric): [of[group][metric] for of in of_runs]
            for group, metrics in of_runs[0].items()
            for metric in metrics
            if all(metric in of.get(group, {}) for of in of_runs)
        }
    return result


def _recorded(
    methods: Mapping[str, Sequence[Path | Experiment | Result]], absent: Sequence[str]
) -> dict[str, Scores]:
    result: dict[str, Scores] = {}
    for name, runs in methods.items():
        recorded = recorded_scores([run for run in runs if isinstance(run, Result)])
        if not recorded or not all(isinstance(run, Result) for run in runs):
            raise UserError(
                f"{absent[0]}: {paths.PREDICTIONS} of a run is missing here, and {name} has no "
                "recorded per-study scores to compare instead. `dvc fetch --run-cache` may bring "
                "the file; otherwise, run it again."
            )
        result[name] = recorded
    common = set.intersection(*(set(of) for of in result.values()))
    return {
        name: {key: runs for key, runs in of.items() if key in common}
        for name, of in result.items()
    }


def _cells(test: Comparison, corrected: float | None) -> list[str]:
    low, high = test.interval
    return [
        number(test.a),
        number(test.b),
        f"{test.difference:+.3f}",
        f"{low:+.3f} to {high:+.3f}",
        number(test.p_value),
        number(corrected),
    ]


def _method(scores: Mapping[str, Scores]) -> str:
    counts = {name: len(next(iter(of.values()))) for name, of in scores.items()}
    studies = len(next(iter(next(iter(scores.values())).values()))[0].statistics)
    runs = ", ".join(f"{name} {count}" for name, count in counts.items())
    return (
        f"{studies} studies; runs: {runs}. Interval and p: studies and runs as crossed random "
        "effects (Obuchowski and Rockette); for a single run, only studies, and no p."
    )
