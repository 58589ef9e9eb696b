"""RadGraph F1 (Jain et al. 2021; Delbrouck et al. 2022), for those who have its weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch
from warnings import catch_warnings

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from uar.core.errors import UserError
from uar.core.files import read_json
from uar.core.progress import progress
from uar.core.weights import unpickle

INSTALLED = find_spec("radgraph") is not None  # the `radgraph` extra; its import takes seconds
HOW_TO_INSTALL = "pip install --constraint constraints.txt --editable '.[radgraph]'"

MODELS = ("radgraph", "radgraph-xl", "modern-radgraph-xl")  # the package's, for radiology
LEVELS = ("simple", "partial", "complete")  # RG_E, RG_ER and the barred RG_ER, in its order
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")
_WEIGHTS = ("config.json", "weights.th", "vocabulary/non_padded_namespaces.txt")
_ENCODER = "encoder"
_WORDS = ("tokenizer.json", "vocab.txt")  # either


class RadGraph:
    """Scores reports by the graphs of entities and relations that the package reads in them.

    Args:
        folder: named as one of `MODELS`; holds what the package unpacks to its cache (config.json,
            weights.th, vocabulary/) and, in encoder/, config.json and tokenizer of the transformer
            that its config.json names. Nothing is downloaded.
        device: where to compute, if CPU or CUDA; else the CPU.

    Raises:
        UserError: the `radgraph` extra is not installed, the folder has another name, a file is
            missing, or the package cannot read the files.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        if not INSTALLED:
            raise UserError(f"RadGraph F1 needs the package radgraph: {HOW_TO_INSTALL}")
        _refuse_other_folders(folder)
        with catch_warnings():  # it changes the filters
            import radgraph
            from radgraph.allennlp.common import cached_transformers, registrable
            from radgraph.rewards import compute_reward
        self._reward = compute_reward
        encoder = folder / _ENCODER
        try:
            unpickle(folder / _WEIGHTS[1])  # refuses with our words what the package's would run
            # the package looks its encoder up by a hub's name
            with (
                patch.object(registrable, "importlib", _NoImports),
                patch.multiple(
                    cached_transformers,
                    get=lambda *_: AutoModel.from_config(_config(encoder), trust_remote_code=False),
                    get_tokenizer=lambda *_, **__: _tokenizer(encoder),
                ),
            ):
                self._parser = radgraph.RadGraph(
                    model_type=folder.name,
                    model_cache_dir=str(folder.parent),
                    cuda=(device.index or 0) if device.type == "cuda" else -1,
                )
        except Exception as error:
            raise UserError(f"{folder} does not hold what radgraph reads: {error}") from None

    def score(self, pairs: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
        """F1 `(N,)` in [0, 1] of N pairs of reference and generated report, by `LEVELS`.

        Letters are compared without their case, which generated reports lack. A text without
        entities, an empty one too, scores 0. Each distinct text is parsed once.

        Raises:
            UserError: the package cannot parse a report.
        """
        plain = [(_plain(reference), _plain(generated)) for reference, generated in pairs]
        texts = dict.fromkeys(text for pair in plain for text in pair)
        graphs = {
            text: self._graph(text) for text in progress(texts, "RadGraph", len(texts), "report")
        }
        rewards = [self._reward(graphs[gen], graphs[ref], "all") for ref, gen in plain]
        return dict(zip(LEVELS, np.array(rewards, float).reshape(-1, len(LEVELS)).T, strict=True))

    @torch.inference_mode()
    def _graph(self, text: str) -> dict[str, Any]:
        """The package's annotation of one text; it, too, computes one at a time."""
        if not text:
            return {"entities": {}}
        annotations = self._parser([text])
        if "0" not in annotations:  # it prints the error and goes on
            raise UserError(f"radgraph cannot parse the report {text!r}; its error is above")
        return annotations["0"]


class _NoImports:
    """Stands in for importlib in the package's registry, which imports any dotted name."""

    @staticmethod
    def invalidate_caches() -> None:
        """Nothing to do."""

    @staticmethod
    def import_module(name: str) -> None:
        """Refuse."""
        raise UserError(f"config.json would have the package import {name!r} and run it")


def _refuse_other_folders(folder: Path) -> None:
    if folder.name not in MODELS:
        raise UserError(
            f"evaluate.radgraph: {folder} is named as none of the package's models; give the "
            f"folder with its weights the name of the one it holds: {', '.join(MODELS)}"
        )
    encoder = folder / _ENCODER
    missing = [path for path in (*(folder / n for n in _WEIGHTS), encoder / "config.json")
               if not path.is_file()]  # fmt: skip
    if not any((encoder / name).is_file() for name in _WORDS):
        missing.append(encoder / " or ".join(_WORDS))
    if missing:
        raise UserError(
            f"{missing[0]} is missing; evaluate.radgraph names a folder with what {folder.name}"
            f".tar.gz of the package's authors holds, and in {_ENCODER}/ config.json and tokenizer "
            "of the transformer that its config.json names"
        )
    for name in sorted(_types(read_json(folder / "config.json"))):
        if not _PLAIN_NAME.fullmatch(name):
            raise UserError(
                f"{folder / 'config.json'} names the type {name!r}: the package would import and "
                "run that. Only its own types, names without a dot, are let through."
            )


def _types(config: Any) -> set[str]:
    """Every value that the package's registry would look up, at any depth."""
    parts = list(config.values()) if isinstance(config, dict) else config
    if not isinstance(parts, list):
        return set()
    found = (
        {str(v) for k, v in config.items() if k == "type" and v is not None}
        if isinstance(config, dict)
        else set()
    )
    return found.union(*map(_types, parts))


def _plain(report: str) -> str:
    return " ".join(report.lower().split())


def _config(folder: Path) -> PretrainedConfig:
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The encoder's, with two methods that radgraph calls and transformers 5 no longer has."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    tokenizer.encode_plus = tokenizer.__call__
    tokenizer.build_inputs_with_special_tokens = (  # type: ignore[method-assign]
        lambda ids: [start, *ids, end]
    )
    return tokenizer
