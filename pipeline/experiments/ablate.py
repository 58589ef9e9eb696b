"""The paper's ablations as DVC experiments."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pipeline import paths
from pipeline.experiments import dvc
from pipeline.experiments.dvc import Experiment, State, code_in, read_experiments
from pipeline.experiments.rows import (
    Ablations,
    Run,
    choose_rows,
    digest,
    overridden,
    parse_overrides,
    parse_seeds,
    plan_runs,
)
from pipeline.provenance import tracked_keys
from uar.core.errors import UserError
from uar.core.params_file import load_params, read_raw

log = logging.getLogger(__name__)

SHARED = ("vocabulary", "tokenize")  # and what they need: all that no row or seed changes
_EVERY = 10  # seconds at least between two queries of the queue's state
_POLLING_SHARE = 0.05  # of the time that queries may take; they slow down as experiments add up
_START = 120  # seconds that workers may take to start running something


def ablate(
    table: Annotated[str, typer.Argument(help="A table of ablations.yaml (table2), or all.")],
    seeds: Annotated[str, typer.Option(help="How many (3), or which (0,1,5).")] = "3",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-S", help="Override a key of params.yaml in every run, KEY=VALUE."),
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Only some of the rows, such as base,a,uar.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Experiments at a time.")] = 1,
) -> None:
    """Run a table's rows, each with several seeds; what has finished before is not run again."""
    load_params(paths.PARAMS)
    ablations = Ablations.load()
    if table != "all" and table not in ablations.tables:
        there = ", ".join(ablations.tables)
        raise UserError(f"no table {table!r} in {paths.ABLATIONS}; choose {there} or all.")
    tables = ablations.tables if table == "all" else [table]
    extra = parse_overrides(set_ or [])
    raw, code = read_raw(paths.PARAMS), code_in(Path())
    models = choose_rows(ablations.models(tables), rows)
    runs = plan_runs(
        models, seeds=parse_seeds(seeds), extra=extra, raw=raw, tracked=tracked_keys(), code=code
    )
    known = read_experiments()
    new = to_queue(runs, known)
    log.info(f"{len(runs)} experiments, {len(new)} of them new")
    if new:
        data = dvc.DATA_ONLY + digest([overridden(raw, extra), code])
        if state(known, data) != "success":
            log.info(f"first {data}: the data and tokens that they all share; it trains no model")
            dvc.run_apart(data, SHARED, extra)
        for run in new:
            dvc.queue(run.name, run.overrides)
    failed = watch(runs, jobs)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} experiments failed. `dvc queue logs {failed[0]}` says "
            "why; the same command runs them again."
        )
    log.info("python -m pipeline compare shows them; --save writes them next to the paper's")


def to_queue(runs: Iterable[Run], known: dict[str, Experiment]) -> list[Run]:
    """Runs that are neither finished nor queued nor running; failed ones are queued again."""
    return [run for run in runs if state(known, run.name) in (None, "failed")]


def state(known: dict[str, Experiment], name: str) -> State | None:
    """The state of the experiment of this name; None if there is no such experiment."""
    return known[name].state if name in known else None


def watch(runs: list[Run], jobs: int) -> list[str]:
    """Log one line for each experiment when it ends; return the names of those that failed."""
    left = {run.name: run for run in runs}
    failed: list[str] = []
    started = -math.inf
    while True:
        queried = time.monotonic()
        known = read_experiments()  # an experiment being fetched from the queue is in no list
        for name in [name for name in left if state(known, name) in ("success", "failed")]:
            run = left.pop(name)
            counted = f"[{len(runs) - len(left):{len(str(len(runs)))}}/{len(runs)}]"
            log.info(f"{counted} {run.model}, seed {run.seed}: {outcome(known[name])}")
            if known[name].state == "failed":
                failed.append(name)
        if not left:
            return failed
        idle = all(state(known, name) == "queued" for name in left)
        if idle and time.monotonic() - started > _START:  # at first, and when workers have died
            dvc.start_workers(jobs)
            started = time.monotonic()
        time.sleep(max(_EVERY, (time.monotonic() - queried) / _POLLING_SHARE))


def outcome(experiment: Experiment) -> str:
    """How an experiment ended, in words."""
    if experiment.state == "failed":
        return "failed"
    metrics = experiment.metrics.get(str(paths.METRICS))
    if metrics is None:
        return f"done, without {paths.METRICS}"
    scores = ", ".join(f"{name} {metrics[name]:.3f}" for name in ("CIDEr", "F1") if name in metrics)
    return f"{scores}, {metrics['distinct']:.0f} distinct reports ({experiment.name})"
