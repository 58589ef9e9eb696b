"""CheXbert's loading code on a tiny random BERT saved as the authors save theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from uar.core.errors import UserError
from uar.evaluation.clinical.chexbert import WEIGHTS, Chexbert
from uar.evaluation.clinical.labels import OBSERVATIONS

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "heart",
    "is",
    "large",
    "effusion",
    ".",
]
CPU = torch.device("cpu")


def write_chexbert(folder: Path) -> None:
    """A tiny random network and its vocabulary."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=12, initializer_range=1.0,
    )  # fmt: skip
    config.to_json_file(folder / "config.json")
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    heads = [nn.Linear(16, 2 if name == "No Finding" else 4) for name in OBSERVATIONS]
    state = {f"module.bert.{k}": v for k, v in BertModel(config).state_dict().items()}
    state["module.bert.embeddings.position_ids"] = torch.arange(12)[None]
    for i, head in enumerate(heads):
        state |= {f"module.linear_heads.{i}.{k}": v for k, v in head.state_dict().items()}
    torch.save({"model_state_dict": state}, folder / WEIGHTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_chexbert(tmp_path)
    return tmp_path


REPORTS = ["The heart is large.", "effusion", "", "the heart\n is large . " * 9]


def test_labels_are_those_of_the_network_report_by_report(folder: Path) -> None:
    chexbert = Chexbert(folder, CPU)
    labels = chexbert.label(REPORTS)
    assert labels.shape == (4, 14)
    assert labels.min() >= 0
    assert labels.max() == 3
    assert labels[:, -1].max() <= 1
    for report, row in zip(REPORTS, labels, strict=True):  # padding changes nothing
        np.testing.assert_array_equal(chexbert.label([report])[0], row)
    assert (labels[0] != labels[1]).any()

    state = torch.load(folder / WEIGHTS, weights_only=True)["model_state_dict"]
    bert = BertModel(BertConfig.from_json_file(folder / "config.json")).eval()
    bert.load_state_dict(
        {
            k.removeprefix("module.bert."): v
            for k, v in state.items()
            if k.startswith("module.bert.") and "position_ids" not in k
        }
    )
    ids = torch.tensor(
        [[WORDS.index(w) for w in ("[CLS]", "the", "heart", "is", "large", ".", "[SEP]")]]
    )
    first = bert(ids).last_hidden_state[0, 0]
    for i, label in enumerate(labels[0]):
        weight, bias = (state[f"module.linear_heads.{i}.{k}"] for k in ("weight", "bias"))
        assert (weight @ first + bias).argmax() == label


def test_other_files_are_refused(folder: Path) -> None:
    saved = torch.load(folder / WEIGHTS, weights_only=True)
    del saved["model_state_dict"]["module.linear_heads.3.bias"]
    torch.save(saved, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"(?s)chexbert.pth is not CheXbert's .*heads.3.bias"):
        Chexbert(folder, CPU)
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match="chexbert.pth is missing; .* vocab.txt"):
        Chexbert(folder, CPU)
