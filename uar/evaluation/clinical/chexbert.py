"""CheXbert (Smit et al. 2020), for users who have its weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer

from uar.core.errors import UserError, plainly
from uar.core.weights import unpickle
from uar.evaluation.clinical.labels import NO_FINDING, OBSERVATIONS

WEIGHTS, CONFIG, WORDS = "chexbert.pth", "config.json", "vocab.txt"
_BATCH = 32  # reports


class _Network(nn.Module):
    """BERT with a classification head for each observation on its first token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = BertModel(config)
        self.linear_heads = nn.ModuleList(
            nn.Linear(config.hidden_size, 2 if name == NO_FINDING else 4) for name in OBSERVATIONS
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Labels `(B, 14)` from token ids and their attention mask, both `(B, T)`."""
        first = self.bert(ids, attention_mask=mask).last_hidden_state[:, 0]
        return torch.stack([head(first).argmax(dim=1) for head in self.linear_heads], dim=1)


class Chexbert:
    """Labels reports, in the same form as `uar.evaluation.clinical.labeller.Labeller`.

    Args:
        folder: contains the authors' `chexbert.pth`, and `config.json` and `vocab.txt` of
            bert-base-uncased.
        device: the device to compute on.

    Raises:
        UserError: a file is missing, or the weights are not CheXbert's.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        for name in (WEIGHTS, CONFIG, WORDS):
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder / name} is missing; evaluate.chexbert must name a folder with the "
                    f"authors' {WEIGHTS}, and {CONFIG} and {WORDS} of bert-base-uncased"
                )
        config = BertConfig.from_json_file(folder / CONFIG)
        self._tokenizer = BertTokenizer(vocab=str(folder / WORDS))
        self._length = config.max_position_embeddings
        self._device = device
        self._network = _Network(config).to(device).eval()
        path = folder / WEIGHTS
        try:
            saved = unpickle(path)["model_state_dict"]
            weights = {name.removeprefix("module."): weight for name, weight in saved.items()}
            # a buffer that older versions of transformers save
            weights.pop("bert.embeddings.position_ids", None)
            self._network.load_state_dict(weights)
        except Exception as error:
            raise UserError(f"{path} is not CheXbert's checkpoint: {plainly(error)}") from None

    @torch.inference_mode()
    def label(self, reports: Iterable[str]) -> np.ndarray:
        """Labels `(N, 14)` int8 of N reports: values of `Label`, columns as in `OBSERVATIONS`."""
        texts = [" ".join(report.split()) for report in reports]
        labels = [np.empty((0, len(OBSERVATIONS)), np.int8)]
        for start in range(0, len(texts), _BATCH):
            batch = self._tokenizer(
                texts[start : start + _BATCH], padding=True, truncation=True,
                max_length=self._length, return_tensors="pt",
            ).to(self._device)  # fmt: skip
            predicted = self._network(batch["input_ids"], batch["attention_mask"])
            labels.append(predicted.to(torch.int8).cpu().numpy())
        return np.concatenate(labels)
