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
_AT_LEAST = 10  # training studies with a finding, below which its share of them is its probability
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
        weights: `(P + 1, N)` float32, the last row the intercept; P is V * codebook, of the bags of
            whole views, or with `places` five times that, of the bags of their quarters too.
        codebook: number of codes.
        views: V.
        places: whether quarters count.
        penalty: of the fit.
        findings: names of the N findings.
        encoder_sha256: of the tokenizer whose codes these are.
    """

    weights: np.ndarray
    codebook: int
    views: int
    places: bool
    penalty: float
    findings: tuple[str, ...]
    encoder_sha256: str

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Of the tokens of whole views `(S, V, L)`, `(S, N)` float64."""
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
            raise UserError(f"{path} is no judge of this project: {error}") from None
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
    """Of one kind of features: held-out cross-entropy, nats a study, by penalty; the weights."""

    nats: dict[float, float]
    penalty: float
    weights: np.ndarray  # (P + 1, N), of the features as they are


def fit_judge(
    tokens: np.ndarray,
    labels: np.ndarray,
    findings: Sequence[str],
    *,
    codebook: int,
    encoder_sha256: str,
    seed: int,
) -> tuple[Judge, dict[str, dict[float, float]]]:
    """A judge fitted to training studies, of bags of tokens or of bags with places.

    Which of the two, and the penalty, the same for all findings: those of least held-out
    cross-entropy in cross-validation, since it is the probabilities themselves that count. A
    finding of fewer than 10 studies gets its share of them as its probability in every study.

    Args:
        tokens: of whole views, `(S, V, L)`.
        labels: `(S, N)` bool.
        findings: names of the N findings.
        codebook: number of codes.
        encoder_sha256: of the tokenizer.
        seed: of the folds.

    Returns:
        The judge, and held-out cross-entropy, nats a study, by kind of features (`tokens`,
        `places`) and penalty; nothing of either where no finding has enough studies.
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
    """Penalty by cross-validation, then the fit to all studies `(S, P)`, `(S, N)`."""
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
