"""What the tokens hold: findings of reports, predicted from tokens alone."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import torch

from pipeline import paths
from pipeline.console import new_table, number, output
from pipeline.inputs import finding_labels, open_images, rows_of
from uar.analysis.probe import probe as fit_probe
from uar.analysis.probe import thumbnails
from uar.core.files import write_csv, write_json
from uar.core.params_file import load_params
from uar.data.study import REPORT_COLUMNS, read_checked
from uar.evaluation.clinical.labels import FINDINGS
from uar.inference.bags import token_bags, with_places
from uar.inference.logistic import sampled
from uar.tokens.cache import TokenCacheInfo, open_tokens
from uar.tokens.tokenizer import codebook_use

log = logging.getLogger(__name__)


def probe() -> None:
    """Predict findings of validation reports from tokens (bags, or with places) and thumbnails."""
    params = load_params(paths.PARAMS)
    reports = read_checked(paths.REPORTS, REPORT_COLUMNS)
    info = TokenCacheInfo.load(paths.TOKENS_INFO)
    tokens, images = open_tokens(paths.TOKENS, info), open_images()
    by_split = [np.flatnonzero(reports["split"] == split) for split in ("train", "val")]
    training, validation = (sampled(studies, params.seed) for studies in by_split)
    rows = (rows_of(training, params), rows_of(validation, params))
    labels = (finding_labels(reports.iloc[training]), finding_labels(reports.iloc[validation]))
    whole = (tokens[rows[0], 0], tokens[rows[1], 0])  # (S, V, L): whole views
    bags = (token_bags(whole[0], info.codebook_size), token_bags(whole[1], info.codebook_size))
    placed = with_places(*whole, info.codebook_size)
    small = (thumbnails(images, rows[0]), thumbnails(images, rows[1]))
    found = {
        "tokens": fit_probe(bags, labels, FINDINGS, seed=params.seed),
        "places": fit_probe(placed, labels, FINDINGS, seed=params.seed),
        "thumbnail": fit_probe(small, labels, FINDINGS, seed=params.seed),
    }
    use = codebook_use(torch.from_numpy(whole[1].astype(np.int64)), info.codebook_size)
    means = {name: _or_none(result.mean_auc) for name, result in found.items()}
    aucs = {"auc" if name == "tokens" else f"{name}_auc": mean for name, mean in means.items()}
    write_json(paths.PROBE, aucs | use)
    studies = dict(zip(FINDINGS, labels[1].sum(0).tolist(), strict=True))
    by_finding = pd.DataFrame({f"{name}_auc": result.auc for name, result in found.items()})
    by_finding.insert(0, "studies", by_finding.index.map(studies))
    by_finding = by_finding.rename_axis("finding").reset_index()
    write_csv(paths.PROBE_FINDINGS, by_finding, float_format="%.4f")
    table = new_table("findings predicted from tokens (AUC, validation)", [*found, "studies"])
    for finding, count, *of_finding in by_finding.itertuples(index=False):
        table.add_row(finding, *map(number, of_finding), str(count))
    table.add_row("[bold]mean", *map(number, means.values()), "")
    output().print(table)
    counts = zip(("training", "validation"), (training, validation), by_split, strict=True)
    of_all = (f"{len(drawn)} of {len(all_)} {split} studies" for split, drawn, all_ in counts)
    log.info(f"probe: {', '.join(of_all)}")
    by_tokens = [mean for name in ("tokens", "places") if (mean := means[name]) is not None]
    if by_tokens and max(by_tokens) < (means["thumbnail"] or 0):
        log.warning(
            "the tokens, with or without places, say less about the findings than films of 16 x 16 "
            "pixels: a model that reads the tokens cannot see what such films show. Try "
            "dvae.source distill, or train the dVAE longer."
        )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
