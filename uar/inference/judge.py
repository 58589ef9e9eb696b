"""Probabilities of findings from a study's visual tokens alone, by ridge logistic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from uar.core.errors import UserError
from uar.core.weights import read_weights, write_weights
from uar.inference.bags import common_codes, quarter_bags, token_bags
from uar.inference.logistic import PENALTIES, Standardisation, fit_path, held_out

_KIND = "judge"
_AT_LEAST = 10  # studies with a finding; if fewer, its probability is its share of all studies
_BLOCK = 64  # studies whose bags are in memory at once


class _About(BaseModel):
    model_config = ConfigDict(extra="forbid")

    codebook: int = Field(ge=1)
    views: int = Field(ge=1, le=2)
    places: bool
    penalty: float
    findings: list[str]
    encoder_sha256: str


@dataclass(frozen=True)
class Judge:
    """Logits of findings, linear in log(1 + n) of how often each code occurs.

    Attributes:
        weights: `(P + 1, N)` float32, the last row the intercept; P is V * codebook, for the bags
            of whole views, or five times that with `places`, for the bags of their quarters too.
        codebook: number of codes.
        views: V.
        places: whether the bags of quarters are used too.
        penalty: that of the fit.
        findings: names of the N findings.
        encoder_sha256: hash of the tokenizer whose codes these are.
    """

    weights: np.ndarray
    codebook: int
    views: int
    places: bool
    penalty: float
    findings: tuple[str, ...]
    encoder_sha256: str

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Logits `(S, N)` float64, from the tokens of whole views `(S, V, L)`."""
        blocks = [tokens[start : start + _BLOCK] for start in range(0, len(tokens), _BLOCK)]
        weights = self.weights.astype(float)
        of_blocks = [self._bags(block) @ weights[:-1] + weights[-1] for block in blocks]
        return np.concatenate([np.empty((0, weights.shape[1])), *of_blocks])

    def _bags(self, tokens: np.ndarray) -> np.ndarray:
        parts = [token_bags(tokens, self.codebook)]
        if self.places:
            parts += quarter_bags(tokens, self.codebook)
        return np.concatenate(parts, axis=1).astype(float)

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        about = {name: value for name, value in vars(self).items() if name != "weights"}
        write_weights(path, _KIND, {"weights": torch.from_numpy(self.weights)}, about)

    @classmethod
    def load(cls, path: Path) -> Judge:
        """Read what `save` wrote.

        Raises:
            UserError: the file is absent, damaged or no judge, or its sizes contradict each other.
        """
        tensors, about = read_weights(path, _KIND)
        try:
            stated = _About.model_validate(about, strict=True)
            weights = tensors["weights"]
        except (KeyError, ValidationError) as error:
            raise UserError(f"{path} is not a judge of this project: {error}") from None
        columns = stated.codebook * stated.views * (5 if stated.places else 1)
        wanted = columns + 1, len(stated.findings)
        if tuple(weights.shape) != wanted or weights.dtype != torch.float32:
            raise UserError(
                f"{path}: a judge with weights {tuple(weights.shape)} in {weights.dtype}, expected "
                f"{wanted} in float32"
            )
        return cls(weights.numpy(), **about | {"findings": tuple(stated.findings)})


@dataclass(frozen=True)
class _Fit:
    """A fit to one kind of features, with held-out cross-entropy, nats a study, by penalty."""

    nats: dict[float, float]
    penalty: float
    weights: np.ndarray  # (P + 1, N), for features that are not standardised


def fit_judge(
    tokens: np.ndarray,
    labels: np.ndarray,
    findings: Sequence[str],
    *,
    codebook: int,
    encoder_sha256: str,
    seed: int,
) -> tuple[Judge, dict[str, dict[float, float]]]:
    """Fit a judge to training studies, on bags of tokens or on bags with places.

    The kind of bags and the penalty, the same for all findings, are those with the least held-out
    cross-entropy in cross-validation, since it is the probabilities themselves that count. A
    finding of fewer than 10 studies has its (smoothed) share of studies as its probability.

    Args:
        tokens: those of whole views, `(S, V, L)`.
        labels: `(S, N)` bool.
        findings: names of the N findings.
        codebook: number of codes.
        encoder_sha256: hash of the tokenizer.
        seed: decides the folds.

    Returns:
        The judge, and held-out cross-entropy, nats a study, by kind of features (`tokens`,
        `places`) and penalty, empty for both kinds if no finding has enough studies.
    """
    enough = labels.sum(axis=0) >= _AT_LEAST
    share = (labels.sum(axis=0) + 1) / (len(labels) + 2)
    whole = token_bags(tokens, codebook)
    quarters = [(of, common_codes(of)) for of in quarter_bags(tokens, codebook)]
    kept = np.concatenate([np.ones(whole.shape[1], bool), *(common for _, common in quarters)])
    placed = np.concatenate([whole, *(of[:, common] for of, common in quarters)], axis=1)
    fits: Mapping[str, _Fit] = {
        name: _fit(features, labels[:, enough], seed)
        for name, features in (("tokens", whole), ("places", placed))
    }
    best = min(fits, key=lambda name: min(fits[name].nats.values(), default=0))
    chosen = fits[best]
    columns = np.flatnonzero(kept) if best == "places" else np.arange(whole.shape[1])
    rows = len(kept) if best == "places" else whole.shape[1]
    weights = np.zeros((rows + 1, len(enough)), np.float32)
    weights[-1] = np.log(share / (1 - share))
    weights[np.ix_([*columns, rows], enough)] = chosen.weights
    judge = Judge(
        weights=weights,
        codebook=codebook,
        views=tokens.shape[1],
        places=best == "places",
        penalty=chosen.penalty,
        findings=tuple(findings),
        encoder_sha256=encoder_sha256,
    )
    return judge, {name: of.nats for name, of in fits.items()}


def _fit(features: np.ndarray, labels: np.ndarray, seed: int) -> _Fit:
    """Choose the penalty by cross-validation, then fit to all studies `(S, P)`, `(S, N)`."""
    if not labels.size:
        nothing = np.zeros((features.shape[1] + 1, 0), np.float32)
        return _Fit({}, PENALTIES[0], nothing)
    standardised = Standardisation.of(features)
    x = standardised(features)
    nats = np.zeros(len(PENALTIES))
    for outside, logits in held_out(x, labels, seed, "judge"):
        true = labels[outside]
        nats += [np.logaddexp(0, np.where(true, -of, of)).sum() for of in logits]
    best = int(nats.argmin())
    weights = fit_path(x, torch.from_numpy(labels).float())[best].double()
    weight = weights[:-1] * standardised.scale
    bias = weights[-1:] - standardised.mean.double() @ weight
    return _Fit(
        nats=dict(zip(PENALTIES, (nats / len(x)).tolist(), strict=True)),
        penalty=PENALTIES[best],
        weights=torch.cat([weight, bias]).float().numpy(),
    )
