"""Measured runs next to the paper's numbers, as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import yaml

from pipeline.experiments.results import (
    Cell,
    Result,
    Setting,
    collapsed,
    provenance,
    recorded_scores,
    values,
)
from pipeline.experiments.rows import Ablations, Table
from uar.evaluation.crossed import compare_methods, corrected_p, power
from uar.evaluation.metrics import METRICS
from uar.evaluation.published import (
    FOOTNOTES,
    published_alignment_scores,
    read_published,
)
from uar.evaluation.summary import COLLAPSE
from uar.evaluation.systems import NATS, PER_STUDY_NATS, UNITS

TABLE_PROTOCOL = "r2gen"  # the protocol of the paper's tables
MODEL = f"details scores model {TABLE_PROTOCOL}"
COLUMNS = (
    "setting", "dataset", "table", "row", "metric", "mean", "sd", "paper", "collapsed",
    "seeds", "selected_by", "epochs", "commits", "tree", "code", "data", "devices", "seconds",
    "params",
)  # fmt: skip
IN_NATS = {  # of a test report; first in every table
    "cross-entropy, nats": "details scores model nats cross_entropy",
    "image gain, nats": "details scores model nats image_gain",
}
RUN_BY_RUN = {  # heading -> its path in a result
    "distinct reports": "details text model distinct_reports",
    "same with other images": "details unchanged_with_other_images",
    "same, studies with a finding": "details unchanged_with_findings",
}
CLINICAL = {
    "findings, micro F1": "clinical micro F1",
    "precision": "clinical micro precision",
    "recall": "clinical micro recall",
}
LOOKING = {  # whether the images matter, and how right the findings are: columns of every table
    **RUN_BY_RUN,
    "image gain, validation": "details selection validation image_gain",
    "CIDEr, another study's images": f"details scores shuffled_images {TABLE_PROTOCOL} CIDEr",
    **{heading: f"details scores model {path}" for heading, path in CLINICAL.items()},
}
COMPARED = {  # columns of Tables 1 to 4
    **IN_NATS,
    **{metric: f"{MODEL} {metric}" for metric in METRICS},
    **LOOKING,
}
EVIDENCE = {
    **IN_NATS,
    "CIDEr": f"{MODEL} CIDEr",
    **LOOKING,
    "findings, macro F1": "details scores model clinical macro F1",
    "five findings, micro F1": "details scores model clinical micro_5 F1",
    "No Finding F1": "details scores model clinical no_finding F1",
    "micro F1, nearest study": "details scores nearest_tokens clinical micro F1",
    "micro F1, constant": "details scores constant_report clinical micro F1",
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


def published_evidence(model: str, heading: str) -> float | None:
    """The paper's value of a column of `EVIDENCE`; None where it prints none."""
    return published_alignment_scores().get(model) if heading == ALIGNMENT else None


def changes(overrides: dict[str, Any], whole: dict[str, Any]) -> str:
    """What a row changes in the whole model, as `key=value` words."""
    changed = {key: value for key, value in overrides.items() if whole[key] != value}
    return " ".join(f"{key}={_yaml(v)}" for key, v in changed.items())


# ---- CSV


def csv_text(settings: list[Setting], ablations: Ablations) -> str:
    """CSV with one line for each cell of each table, those of Table 1 first."""
    rows: list[dict[str, Any]] = [
        {"dataset": dataset, "table": "table1", "row": system, "metric": metric, "paper": paper}
        for dataset in ("iu_xray", "mimic_cxr")
        for system, published in read_published(f"table1_{dataset}").items()
        for metric, paper in published.items()
    ]
    for setting in settings:
        for table, row, overrides, metric, path, paper in _cells(ablations):
            runs = setting.runs_of(overrides, ablations)
            cell = Cell.of(values(runs, path))
            rows.append(
                {
                    "setting": setting.id,
                    "dataset": setting.dataset,
                    "table": table,
                    "row": row,
                    "metric": metric,
                    "mean": cell.mean,
                    "sd": cell.sd,
                    "paper": paper,
                    "collapsed": str(sum(run.collapsed for run in runs)) if runs else None,
                    "params": changes(overrides, ablations.whole),
                    "code": setting.code,
                    "data": setting.data,
                    **provenance(runs),
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n")


def _cells(
    ablations: Ablations,
) -> Iterator[tuple[str, str, dict[str, Any], str, str, float | None]]:
    """Yield table, row, its overrides, metric, its path in a result, and the paper's value."""
    for name, table in ablations.tables.items():
        published = read_published(table.published)
        for row, overrides in table.rows.items():
            for metric in METRICS:
                yield name, row, overrides, metric, f"{MODEL} {metric}", published[row][metric]
    for model, overrides in ablations.models(ablations.tables).items():
        for heading, path in EVIDENCE.items():
            paper = published_evidence(model, heading)
            yield "evidence", model, overrides, heading, path, paper


# ---- Markdown

_HEAD = f"""# Results

Written by `python -m pipeline compare --save`; RESULTS.csv has every digit, runs/ every run.
Scores are for the test split, protocol `r2gen`: ours as mean ± sample standard deviation over
training seeds, the paper's as printed, in brackets. The paper's Tables 2-4 are for IU X-Ray at full
size, whichever data set ours are for. A setting is one version of the code, one data set and one
recipe: runs of different code are never averaged. The newest setting of each data set comes first.
Time is the wall time of all training stages, mean over seeds. – was not measured or not recorded.
Findings are the 13 of CheXpert's 14 observations that are findings, by rule-based labels; No
Finding is listed separately. Alignment, retrieval and pointing game are for the validation split
(`analyze`); the paper's alignment scores are those of its Figure 4 (a). Cross-entropy: nats that a
test report costs, lower is better. Image gain: how many more it costs with another study's images;
0 means that the model makes no use of them. On validation, it is that of the chosen epoch. Epoch:
for each seed, the one chosen on validation, out of how many, and by what. Below each table, its
rows are tested against the first, in nats: studies and runs are crossed random effects (Obuchowski
and Rockette), p is corrected over the table (Holm), and rows with one run have none.

† {COLLAPSE} The count next to it is that of the row's collapsed runs; no conclusions are drawn from
such rows. For runs whose share of unchanged reports (of studies with a finding) was not recorded,
only the first half of the rule is applied.
"""


def markdown(settings: list[Setting], ablations: Ablations) -> str:
    """The page: Table 1 with every setting's whole model, then Tables 2-4 of each setting.

    Args:
        settings: oldest first within a data set (`group`); the page begins with the newest.
    """
    parts = [_HEAD]
    settings = sorted(reversed(settings), key=lambda setting: setting.dataset)
    for dataset, title in (("iu_xray", "IU X-Ray"), ("mimic_cxr", "MIMIC-CXR")):
        parts.append(f"## Table 1: {title}\n")
        own = [setting for setting in settings if setting.dataset == dataset]
        head = ["", *COMPARED, "epoch", "seeds"]
        parts.append(_table(head, _table_one(dataset, own, ablations)))
        parts += [f"{note}\n" for system, note in FOOTNOTES.items()
                  if system in read_published(f"table1_{dataset}")]  # fmt: skip
    for setting in settings:
        parts.append(f"## {setting.dataset}, setting {setting.id}\n")
        parts.append(_origin(setting))
        listed = "".join(f"{key}: {_yaml(value)}\n" for key, value in setting.params.items())
        parts.append(
            "<details><summary>parameters that its rows share</summary>\n\n"
            f"```yaml\n{listed}```\n\n</details>\n"
        )
        for table in ablations.tables.values():
            parts.append(f"### {table.title}\n")
            head = ["", *COMPARED, "epoch", "seeds", "commit", "tree", "device", "time", "params"]
            parts.append(_table(head, _rows(setting, table, ablations)))
            parts += _tests(setting, table.rows, ablations)
        parts.append("### Evidence beyond the paper's tables\n")
        parts.append(_table(["", *EVIDENCE, "epoch", "seeds"], _evidence_rows(setting, ablations)))
    return "\n".join(parts)


def _origin(setting: Setting) -> str:
    """Code, data, signature, packages, and how many test scores were known before."""
    first = setting.runs[0]
    signature = first.details.get("signatures", {}).get(TABLE_PROTOCOL, {}).get("BLEU-4")
    packages = first.details.get("packages")
    listed = ", ".join(f"{name} {version}" for name, version in (packages or {}).items())
    known = (
        f"The test scores of {setting.scored_before} earlier recipes of this data set were known "
        "before these runs."
        if setting.scored_before
        else "No earlier recipe of this data set was scored on the test split."
    )
    return (
        f"Code: {setting.code}. Data: {setting.data or 'not recorded'}. "
        f"Signature: `{signature or 'not recorded'}`. Packages: {listed or 'not recorded'}. "
        f"{known}\n"
    )


def _table_one(
    dataset: str, settings: list[Setting], ablations: Ablations
) -> Iterator[Sequence[str]]:
    for system, published in read_published(f"table1_{dataset}").items():
        mark = " ‡" if system in FOOTNOTES else ""
        numbers = {metric: f"({_number(value)})" for metric, value in published.items()}
        yield [f"{system}{mark}", *(numbers.get(heading, "") for heading in COMPARED), "", ""]
    for setting in settings:
        runs = setting.runs_of(ablations.whole, ablations)
        if not runs:
            continue
        run = provenance(runs)
        cells = _cells_of(runs, COMPARED)
        yield [
            f"UAR, this project{collapsed(runs)}, {setting.id}",
            *cells,
            _epochs(run),
            run["seeds"],
        ]
        for name, system in CONTROLS.items():
            paths = {
                heading: path.replace(" model ", f" {system} ")
                for heading, path in COMPARED.items()
                if heading in (*METRICS, *CLINICAL)
            }
            shown = dict(zip(paths, _cells_of(runs, paths), strict=True))
            cells = [shown.get(heading, "") for heading in COMPARED]
            yield [f"{name}, {setting.id}", *cells, "", run["seeds"]]


def _cells_of(
    runs: Sequence[Result],
    columns: Mapping[str, str],
    paper: Mapping[str, float | None] | None = None,
) -> list[str]:
    """A row's cells: mean and deviation, and in brackets what the paper prints.

    Columns of `RUN_BY_RUN` have every run's value, the first of them with the number of studies.

    Args:
        runs: the row's runs.
        columns: heading -> its path in a result.
        paper: the paper's numbers by heading, where it has any; None for one that is not printed.
    """
    cells = []
    for heading, path in columns.items():
        found = values(runs, path)
        if heading in RUN_BY_RUN:
            form = ".0f" if heading == "distinct reports" else ".0%"
            shown = ["–" if value is None else f"{value:{form}}" for value in found]
            if form == ".0f" and runs:
                shown += ["of", *map(str, sorted({run.details["studies"] for run in runs}))]
            cells.append(" ".join(shown) or "–")
        else:
            printed = f" ({_number(paper[heading])})" if paper and heading in paper else ""
            cells.append(f"{Cell.of(found)}{printed}")
    return cells


def _epochs(run: dict[str, str]) -> str:
    return f"{run['selected_by']}: {run['epochs']}" if run["epochs"] else ""


def _rows(setting: Setting, table: Table, ablations: Ablations) -> Iterator[Sequence[str]]:
    paper = read_published(table.published)
    for row, overrides in table.rows.items():
        runs = setting.runs_of(overrides, ablations)
        run = provenance(runs)
        time = f"{run['seconds']} s" if run["seconds"] else ""
        made = [_epochs(run), run["seeds"], run["commits"], run["tree"], run["devices"], time]
        cells = _cells_of(runs, COMPARED, paper[row])
        yield [f"{row}{collapsed(runs)}", *cells, *made, changes(overrides, ablations.whole)]


def _tests(
    setting: Setting, rows: dict[str, dict[str, Any]], ablations: Ablations
) -> Iterator[str]:
    """Yield a table of tests of each row against the first, in nats, and the power of the tests."""
    name = PER_STUDY_NATS[0]
    key = NATS, name
    scores = {
        row: {key: found[key]}
        for row, overrides in rows.items()
        if key in (found := recorded_scores(setting.runs_of(overrides, ablations)))
    }
    first, *others = rows
    if first not in scores or not (others := [row for row in others if row in scores]):
        return
    tests = {row: compare_methods(scores[first], scores[row])[key] for row in others}
    head = [
        f"against {first}, {UNITS[name]}",
        "difference",
        "95 % interval",
        "p",
        "p, Holm",
    ]
    listed = list(tests.values())
    yield _table(
        head,
        (
            [
                row,
                f"{test.difference:+.3f}",
                "{:+.3f} to {:+.3f}".format(*test.interval),
                _number(test.p_value),
                _number(p_value),
            ]
            for (row, test), p_value in zip(tests.items(), corrected_p(listed), strict=True)
        ),
    )
    yield f"{power(listed)}\n"


def _evidence_rows(setting: Setting, ablations: Ablations) -> Iterator[Sequence[str]]:
    for model in ablations.models(ablations.tables):
        if runs := setting.models.get(model):
            run, printed = provenance(runs), published_evidence(model, ALIGNMENT)
            paper = None if printed is None else {ALIGNMENT: printed}
            cells = _cells_of(runs, EVIDENCE, paper)
            yield [f"{model}{collapsed(runs)}", *cells, _epochs(run), run["seeds"]]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
