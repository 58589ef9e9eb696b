"""RadGraph F1 (Jain et al. 2021; Delbrouck et al. 2022), for users who have its weights."""

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

from uar.core.errors import UserError, plainly
from uar.core.files import read_json
from uar.core.progress import progress
from uar.core.weights import unpickle

INSTALLED = find_spec("radgraph") is not None  # the `radgraph` extra, which takes seconds to import
HOW_TO_INSTALL = "pip install --constraint constraints.txt --editable '.[radgraph]'"

MODELS = ("radgraph", "radgraph-xl", "modern-radgraph-xl")  # the package's models for radiology
LEVELS = ("simple", "partial", "complete")  # RG_E, RG_ER, RG_ER with a bar: the package's order
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")
_WEIGHTS = ("config.json", "weights.th", "vocabulary/non_padded_namespaces.txt")
_ENCODER = "encoder"
_WORDS = ("tokenizer.json", "vocab.txt")  # either of them


class RadGraph:
    """Scores reports by the graphs of entities and relations that the package finds in them.

    Args:
        folder: named after one of `MODELS`. It contains what the package unpacks to its cache
            (config.json, weights.th and vocabulary/) and, in encoder/, config.json and the
            tokenizer of the transformer that config.json names. Nothing is downloaded.
        device: the device to compute on, if it is the CPU or CUDA; otherwise the CPU is used.

    Raises:
        UserError: the `radgraph` extra is not installed, the folder has another name, a file is
            missing, or the package cannot read the files.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        if not INSTALLED:
            raise UserError(f"RadGraph F1 needs the package radgraph: {HOW_TO_INSTALL}")
        _refuse_other_folders(folder)
        with catch_warnings():  # the package changes the filters
            import radgraph
            from radgraph.allennlp.common import cached_transformers, registrable
            from radgraph.rewards import compute_reward
        self._reward = compute_reward
        encoder = folder / _ENCODER
        try:
            unpickle(folder / _WEIGHTS[1])  # rejects, with our message, what the package would run
            # the package looks up its encoder by its name on a hub
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
            raise UserError(f"radgraph cannot read {folder}: {plainly(error)}") from None

    def score(self, pairs: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
        """F1 `(N,)` in [0, 1] of N pairs of a reference and a generated report, by `LEVELS`.

        Case is ignored, since generated reports are in lower case. A text without entities scores
        0, and so does an empty text. Each distinct text is parsed once.

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
        """The package's annotation of one text; the package also takes one text at a time."""
        if not text:
            return {"entities": {}}
        annotations = self._parser([text])
        if "0" not in annotations:  # the package prints the error and continues
            raise UserError(f"radgraph cannot parse the report {text!r}; its error is shown above")
        return annotations["0"]


class _NoImports:
    """Replaces importlib in the package's registry, which would import any dotted name."""

    @staticmethod
    def invalidate_caches() -> None:
        """Do nothing."""

    @staticmethod
    def import_module(name: str) -> None:
        """Raise UserError, whatever the name."""
        raise UserError(f"config.json would make the package import {name!r} and run it")


def _refuse_other_folders(folder: Path) -> None:
    if folder.name not in MODELS:
        raise UserError(
            f"evaluate.radgraph: {folder} is not named after one of the package's models; give it "
            f"the name of the model whose weights it contains: {', '.join(MODELS)}"
        )
    encoder = folder / _ENCODER
    missing = [path for path in (*(folder / n for n in _WEIGHTS), encoder / "config.json")
               if not path.is_file()]  # fmt: skip
    if not any((encoder / name).is_file() for name in _WORDS):
        missing.append(encoder / " or ".join(_WORDS))
    if missing:
        raise UserError(
            f"{missing[0]} is missing; evaluate.radgraph must name a folder with the contents of "
            f"the authors' {folder.name}.tar.gz and, in {_ENCODER}/, config.json and the tokenizer "
            "of the transformer that its config.json names"
        )
    for name in sorted(_types(read_json(folder / "config.json"))):
        if not _PLAIN_NAME.fullmatch(name):
            raise UserError(
                f"{folder / 'config.json'} names the type {name!r}, which the package would import "
                "and run. Only the package's own types, whose names have no dot, are allowed."
            )


def _types(config: Any) -> set[str]:
    """Every value, at any depth, that the package's registry would look up."""
    found: set[str] = set()
    if isinstance(config, dict):
        found = set() if config.get("type") is None else {str(config["type"])}
        config = list(config.values())
    return found.union(*map(_types, config)) if isinstance(config, list) else found


def _plain(report: str) -> str:
    return " ".join(report.lower().split())


def _config(folder: Path) -> PretrainedConfig:
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The encoder's tokenizer, with two methods that radgraph calls but transformers 5 lacks."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    tokenizer.encode_plus = tokenizer.__call__
    tokenizer.build_inputs_with_special_tokens = (  # type: ignore[method-assign]
        lambda ids: [start, *ids, end]
    )
    return tokenizer
