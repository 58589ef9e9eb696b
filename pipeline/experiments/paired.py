"""Systems' reports of the same studies against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from pipeline import paths
from pipeline.console import new_table, number, output
from pipeline.experiments.dvc import Experiment, code_of, read_experiments, read_file
from pipeline.experiments.results import WHERE_NOT_WHAT, Result
from pipeline.experiments.rows import SEED, Ablations, digest, flat
from pipeline.measures import open_measures
from uar.core.config import Params
from uar.core.device import resolve_device
from uar.core.errors import UserError
from uar.evaluation.bootstrap import PairedTest, holm, paired_test
from uar.evaluation.metrics import Metric
from uar.evaluation.predictions import Prediction, read_predictions, refuse_other_studies
from uar.evaluation.systems import score_systems

AGAINST = (  # what rows are tested by: group and metric
    ("r2gen", "BLEU-4"),
    ("r2gen", "METEOR"),
    ("r2gen", "ROUGE-L"),
    ("r2gen", "CIDEr"),
    ("clinical", "micro F1"),
)

Source = Experiment | Path  # of predictions
Runs = dict[int, list[Prediction]]  # by training seed; of a file, seed 0 stands for its one run
Tests = dict[tuple[str, str], PairedTest]  # by group and metric


@dataclass(frozen=True)
class Known:
    """What can be compared: runs in folders, and this clone's, asked of DVC when needed."""

    folders: Mapping[Path, Result]

    @cached_property
    def experiments(self) -> dict[str, Experiment]:
        """All of them by name."""
        return read_experiments()

    def rows(self) -> dict[str, dict[int, Source]]:
        """Finished runs of the last setting, by row and seed: same parameters and code."""
        found: list[tuple[str, str, dict[str, Any], Source]] = [  # time, code, parameters, source
            (run.finished, run.code or run.commit, run.params, folder / paths.PREDICTIONS)
            for folder, run in self.folders.items()
        ]
        found += [
            (of.finished, code_of(of.rev), of.params, of)
            for of in self.experiments.values()
            if of.state == "success" and str(paths.METRICS) in of.metrics
        ]
        settings: dict[str, dict[str, dict[int, Source]]] = {}
        last, ablations = "", Ablations.load()
        for _, code, nested, source in sorted(found, key=lambda of: of[0]):
            params = flat(nested)
            row = ablations.name_of(params)
            if row is None or SEED not in params:
                continue
            apart = {*ablations.whole, *WHERE_NOT_WHAT, SEED}
            shared = {key: value for key, value in params.items() if key not in apart}
            last = digest([shared, code])
            settings.setdefault(last, {}).setdefault(row, {})[params[SEED]] = source
        return settings.get(last, {})

    def runs(self, source: str) -> dict[int, Source] | Path:
        """The file, experiment or row of this name.

        Raises:
            UserError: there is none.
        """
        if Path(source).is_file():
            return Path(source)
        if source in self.experiments:
            experiment = self.experiments[source]
            return {flat(experiment.params).get(SEED, 0): experiment}
        rows = self.rows()
        if source in rows:
            return rows[source]
        offered = ", ".join([*rows, *sorted(self.experiments)]) or "none"
        raise UserError(
            f"{source!r} is no file, and no row or experiment of this clone. There are: {offered}."
        )


def print_paired(a: str, b: str, known: Known, params: Params) -> None:
    """Paired tests of every metric: difference, 95 % interval and p-value.

    Args:
        a: predictions.jsonl of one system, an experiment, or a row.
        b: the other.
        known: experiments and rows.
        params: how scores and resamples are made.

    Raises:
        UserError: a source is none of these, they hold other studies or have no seed in common.
    """
    runs = matched({a: known.runs(a), b: known.runs(b)})
    first, other = runs[0], runs[1]
    [tests] = test_all([first, other], [f"{a}", f"{b}"], params)
    title = f"A: {a}\nB: {b}"
    table = new_table(title, ["A", "B", "B - A", "95 % interval", "p", "same sign"])
    group = ""
    for (of, name), test in tests.items():
        if of != group:
            group = of
            table.add_row(f"[bold]{group}")
        table.add_row(
            f" {name}",
            number(test.a),
            number(test.b),
            f"{test.b - test.a:+.3f}",
            f"{test.low:+.3f} to {test.high:+.3f}",
            number(test.p_value),
            f"{test.same_sign}/{len(first)}",
        )
    console = output()
    console.print(table)
    console.print(_method(first, params))


def print_against(row: str, known: Known, params: Params) -> None:
    """Paired tests of every other row against one, p-values corrected for the number of rows.

    Raises:
        UserError: the row has no finished runs here, or no other row has its seeds.
    """
    rows = known.rows()
    if row not in rows:
        raise UserError(
            f"no finished run of row {row!r} here; there are: {', '.join(rows) or 'none'}"
        )
    others = [name for name in rows if name != row]
    if not others:
        raise UserError(f"there is no row to test against {row}; `ablate` runs them")
    sources: dict[str, dict[int, Source] | Path] = {name: rows[name] for name in (row, *others)}
    runs = matched(sources)
    results = test_all(runs, [row, *others], params)
    console = output()
    for group, name in (key for key in AGAINST if all(key in tests for tests in results)):
        corrected = holm([tests[group, name].p_value for tests in results])
        table = new_table(
            f"{name} ({group}), each row against {row}",
            [row, "row", "row - " + row, "95 % interval", "p", "p, Holm", "same sign"],
        )
        for other, tests, p_value in zip(others, results, corrected, strict=True):
            test = tests[group, name]
            table.add_row(
                other,
                number(test.a),
                number(test.b),
                f"{test.b - test.a:+.3f}",
                f"{test.low:+.3f} to {test.high:+.3f}",
                number(test.p_value),
                number(p_value),
                f"{test.same_sign}/{len(runs[0])}",
            )
        console.print(table)
    console.print(f"{_method(runs[0], params)} Holm's correction over {len(others)} rows.")


def matched(sources: Mapping[str, dict[int, Source] | Path]) -> list[Runs]:
    """Predictions of each source, for the seeds that all have; single runs match whatever theirs.

    Raises:
        UserError: they have no seed in common, or are of other studies.
    """
    single = all(isinstance(of, Path) or len(of) == 1 for of in sources.values())
    runs: list[Runs] = []
    if single:
        for of in sources.values():
            path = of if isinstance(of, Path) else next(iter(of.values()))
            runs.append({0: predictions(path)})
    else:
        seeds = [set(of) if isinstance(of, dict) else set() for of in sources.values()]
        common = sorted(set.intersection(*seeds))
        if not common:
            raise UserError(f"{', '.join(sources)} have no training seed in common")
        for of in sources.values():
            assert isinstance(of, dict)
            runs.append({seed: predictions(of[seed]) for seed in common})
    names = list(sources)
    first = next(iter(runs[0].values()))
    for name, of_system in zip(names, runs, strict=True):
        for rows in of_system.values():
            refuse_other_studies(first, rows, f"{names[0]} and {name}")
    return runs


def test_all(runs: Sequence[Runs], names: Sequence[str], params: Params) -> list[Tests]:
    """Every other system against the first, in every metric."""
    measures = open_measures(params.evaluate, resolve_device(params.device))
    scores = score_systems(
        {
            f"{number} {seed}": rows
            for number, of_system in enumerate(runs)
            for seed, rows in of_system.items()
        },
        measures,
    )

    def metrics(number: int) -> dict[str, dict[str, list[Metric]]]:
        tested = [scores[f"{number} {seed}"].tested() for seed in runs[number]]
        return {
            group: {name: [of[group][name] for of in tested] for name in of_group}
            for group, of_group in tested[0].items()
        }

    base = metrics(0)
    return [
        {
            (group, name): test
            for group, of_group in metrics(number).items()
            for name, test in paired_test(
                base[group], of_group, resamples=params.evaluate.resamples, seed=params.seed
            ).items()
        }
        for number in range(1, len(names))
    ]


def predictions(source: Source) -> list[Prediction]:
    """Of a file, else of an experiment's cached output."""
    if isinstance(source, Path):
        return read_predictions(source)
    content = read_file(source.rev, paths.PREDICTIONS)
    if content is None:
        raise UserError(
            f"experiment {source.name} has no {paths.PREDICTIONS} here; `dvc fetch --run-cache` or "
            "running it again brings it"
        )
    with NamedTemporaryFile(suffix=f"-{paths.PREDICTIONS.name}") as copy:
        Path(copy.name).write_bytes(content)
        return read_predictions(copy.name)


def _method(runs: Runs, params: Params) -> str:
    studies = len(next(iter(runs.values())))
    return (
        f"{studies} studies, {len(runs)} matched runs; interval: {params.evaluate.resamples} "
        "resamples of studies and runs (pigeonhole bootstrap); p: random exchanges of the two "
        "systems' reports, study by study, for these runs; same sign: runs whose own difference "
        "has the sign of the mean."
    )
