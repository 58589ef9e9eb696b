"""RadGraph F1: our sums on known scores, then the package on a tiny random model in its format."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from pipeline.console import print_evaluation
from pipeline.measures import open_measures
from uar.core.config import EvaluateParams
from uar.core.errors import UserError
from uar.evaluation.clinical.radgraph import INSTALLED, LEVELS, MODELS, RadGraph
from uar.evaluation.predictions import Prediction
from uar.evaluation.summary import BASELINES
from uar.evaluation.systems import Measures, per_study_scores, score_systems

CPU = torch.device("cpu")
needs_radgraph = pytest.mark.skipif(not INSTALLED, reason="needs the radgraph extra")


class Known:
    """Scores that a table gives; keeps what it was asked."""

    def __init__(self, scores: dict[tuple[str, str], tuple[float, float]]) -> None:
        self.scores = scores
        self.asked: list[tuple[str, str]] = []

    def score(self, pairs: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
        self.asked += pairs
        simple, partial = zip(*(self.scores[pair] for pair in pairs), strict=True)
        return {"simple": np.array(simple), "partial": np.array(partial)}


def predictions(*generated: str) -> list[Prediction]:
    return [
        Prediction(str(i), generated=text, reference="heart large", report=f"Heart large. {i}",
                   log_probability=-1.0)
        for i, text in enumerate(generated)
    ]  # fmt: skip


def test_scores_are_means_over_studies_of_each_distinct_pair() -> None:
    scorer = Known(
        {
            ("Heart large. 0", "heart large"): (1.0, 0.5),
            ("Heart large. 1", "heart large"): (0.5, 0.25),
            ("Heart large. 2", "no effusion"): (0.0, 0.0),
            ("Heart large. 2", "heart large"): (0.75, 0.0),
        }
    )
    systems = {
        "model": predictions("heart large", "heart large", "no effusion"),
        "constant_report": predictions("heart large", "heart large", "heart large"),
    }
    scores = score_systems(systems, Measures({}, {"radgraph": scorer}, ["r2gen"], meteor=False))
    assert sorted(scorer.asked) == sorted(scorer.scores)  # each once, of whole raw reports

    model, constant = scores["model"], scores["constant_report"]
    assert model.values()["radgraph"] == {"simple": 0.5, "partial": 0.25}
    assert constant.values()["radgraph"] == {"simple": 0.75, "partial": 0.25}
    assert model.tested()["radgraph"]["simple"].of_each().tolist() == [1.0, 0.5, 0.0]
    table = per_study_scores(systems["model"], model)
    assert table["radgraph_simple"].tolist() == [1.0, 0.5, 0.0]
    assert table["radgraph_partial"].tolist() == [0.5, 0.25, 0.0]

    bounds = model.intervals(resamples=200, seed=0)["radgraph"]["simple"]
    draws = np.random.default_rng(0).multinomial(3, np.full(3, 1 / 3), size=200)
    expected = np.quantile(draws @ [1.0, 0.5, 0.0] / 3, [0.025, 0.975])
    assert [bounds["low"], bounds["high"]] == pytest.approx(expected)


def test_the_closing_table_has_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    text = {"BLEU-1": 0.5}
    interval = {"low": 0.25, "high": 0.625}
    model = {"r2gen": text, "coco": text, "radgraph": {"partial": 0.432}}
    other = model | {"radgraph": {"partial": 0.123}}
    names = ("distinct_reports", "words_used", "mean_length", "reference_words",
             "reference_mean_length")  # fmt: skip
    summary: dict[str, Any] = {
        "studies": 20,
        "scores": {"model": model, **dict.fromkeys(BASELINES.values(), other)},
        "intervals": {"r2gen": {"BLEU-1": interval}, "coco": {"BLEU-1": interval},
                      "radgraph": {"partial": interval}},
        "text": dict.fromkeys(("model", *BASELINES.values()), dict.fromkeys(names, 1)),
        "signatures": {"radgraph": {"partial": "radgraph,partial|model:radgraph-xl"}},
        "unchanged_with_other_images": 0.75,
        "unchanged_with_findings": 0.5,
        "collapsed": True,
    }  # fmt: skip
    print_evaluation(summary)
    head, rows = capsys.readouterr().out.split("RadGraph F1")
    assert "0.432" not in head
    assert ["this", "model", "0.432"] in [line.split() for line in rows.splitlines()]
    assert head.count("1 distinct, 75% same (50%)") == 2
    assert ".25-.62" in rows
    assert rows.count("0.123") == len(BASELINES)
    assert "1 distinct reports of 20" in rows
    assert "collapsed: A run has collapsed if" in rows
    assert "radgraph,partial|model:radgraph-xl" in rows
    model.pop("radgraph")
    print_evaluation(summary | {"signatures": {}, "collapsed": False})
    out = capsys.readouterr().out
    assert out.startswith(head.rstrip())
    assert "RadGraph" not in out
    assert "collapsed" not in out


def test_what_is_asked_for_and_cannot_be_had_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw_params: dict[str, Any]
) -> None:
    asked = raw_params["evaluate"] | {"radgraph": tmp_path}
    with pytest.raises(UserError, match="is not named after one of the package's models"):
        open_measures(EvaluateParams.model_validate(asked), CPU)
    monkeypatch.setattr("uar.evaluation.clinical.radgraph.INSTALLED", False)
    with pytest.raises(UserError, match=r"needs the package radgraph: pip install .*\[radgraph\]"):
        open_measures(EvaluateParams.model_validate(asked), CPU)
    asked = raw_params["evaluate"] | {"chexbert": tmp_path}
    with pytest.raises(UserError, match="chexbert.pth is missing"):
        open_measures(EvaluateParams.model_validate(asked), CPU)


WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    "the", "heart", "is", "large", "no", "effusion", ".", "a", "b",
]  # fmt: skip
SECTION = {"type": "x", "model_name": "a/hub-s-name", "max_length": 12}
CONFIG = {
    "dataset_reader": {"max_span_width": 2, "token_indexers": {"bert": SECTION}},
    "model": {
        **dict.fromkeys(("type", "initializer", "module_initializer")),
        "embedder": {"token_embedders": {"bert": SECTION}},
        "modules": {
            "ner": {},
            "coref": {"spans_per_word": 0.5, "max_antecedents": 2},
            "relation": {"spans_per_word": 1.0},
            "events": {
                "trigger_spans_per_word": 0.5,
                "argument_spans_per_word": 0.5,
                "loss_weights": {},
            },
        },
        "feature_size": 4,
        "max_span_width": 2,
        "target_task": "ner",
        "feedforward_params": {"num_layers": 1, "hidden_dims": 8, "dropout": 0.0},
        "loss_weights": {"ner": 1.0, "relation": 1.0, "coref": 0.0, "events": 0.0},
    },
}


def write_radgraph(folder: Path) -> None:
    """What the package unpacks, and the encoder's files; the weights are no file of weights."""
    for name in ("vocabulary", "encoder"):
        (folder / name).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name, lines in {
        "non_padded_namespaces": ["*labels", "*tags"],
        "radgraph__ner_labels": [
            "",
            "Anatomy::definitely present",
            "Observation::definitely absent",
        ],
        "radgraph__relation_labels": ["", "located_at", "modify"],
    }.items():
        (folder / "vocabulary" / f"{name}.txt").write_text("".join(f"{x}\n" for x in lines))
    (folder / "encoder" / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=12, initializer_range=1.0,
    ).to_json_file(folder / "encoder" / "config.json")  # fmt: skip
    (folder / "weights.th").touch()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_radgraph(tmp_path / "radgraph")
    return tmp_path / "radgraph"


@pytest.fixture
def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Random weights, saved to the folder as the package's authors save theirs."""
    from radgraph.dygie.models.dygie import DyGIE

    state: dict[str, torch.Tensor] = {}

    def keep(model: DyGIE, *_: Any, **__: Any) -> None:
        torch.manual_seed(1)
        state.update({name: torch.randn_like(w) for name, w in model.state_dict().items()})

    with patch("torch.load"), patch.object(DyGIE, "load_state_dict", keep):
        RadGraph(folder, CPU)
    torch.save(state, folder / "weights.th")
    return state


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection is opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@needs_radgraph
@pytest.mark.usefixtures("offline")
def test_the_package_reads_the_folders_model(
    folder: Path, weights: dict[str, torch.Tensor]
) -> None:
    scorer = RadGraph(folder, CPU)
    loaded = scorer._parser.model.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)

    vectors = []
    scorer._parser.model._endpoint_span_extractor.register_forward_hook(
        lambda module, inputs, output: vectors.append(inputs[0][0])
    )
    words = ["the", "heart", "is", "large", "."] * 3
    scorer.score([(" ".join(words), "")])
    bert = BertModel(BertConfig.from_json_file(folder / "encoder" / "config.json")).eval()
    prefix = "_embedder.token_embedder_bert._matched_embedder.transformer_model."
    bert.load_state_dict(
        {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    )
    expected = []
    for segment in (words[:10], words[10:]):  # max_length 12, [CLS] and [SEP] included
        ids = [WORDS.index(word) for word in ("[CLS]", *segment, "[SEP]")]
        expected.append(bert(torch.tensor([ids])).last_hidden_state[0, 1:-1])
    torch.testing.assert_close(vectors[0], torch.cat(expected))


@needs_radgraph
@pytest.mark.usefixtures("offline", "weights")
def test_same_facts_score_one_and_none_zero(folder: Path) -> None:
    scorer = RadGraph(folder, CPU)
    parsed = []
    parse = scorer._parser.forward
    with patch.object(
        scorer._parser, "forward", lambda texts: parsed.extend(texts) or parse(texts)
    ):
        scores = scorer.score(
            [
                ("The heart\n is LARGE.", "the heart is large."),
                ("The heart is large.", ""),
                ("", ""),
                ("no effusion", "the heart is large."),
            ]
        )
    assert sorted(parsed) == ["no effusion", "the heart is large."]
    for level in LEVELS:
        assert scores[level][:3].tolist() == [1.0, 0.0, 0.0]
        assert 0 <= scores[level][3] < 1


def entity(tokens: str, label: str, *relations: list[str]) -> dict[str, Any]:
    return {"tokens": tokens, "label": label, "relations": list(relations)}


PRESENT, ABSENT = "Observation::definitely present", "Observation::definitely absent"
GRAPHS = {
    "reference": {
        "1": entity("heart", "Anatomy::definitely present"),
        "2": entity("large", PRESENT, ["located_at", "1"]),
        "3": entity("effusion", ABSENT),
    },
    "generated": {
        "1": entity("heart", "Anatomy::definitely present"),
        "2": entity("large", PRESENT, ["modify", "1"]),
        "3": entity("effusion", ABSENT, ["located_at", "1"]),
        "4": entity("pneumothorax", ABSENT),
    },
}


@needs_radgraph
@pytest.mark.usefixtures("weights")
def test_levels_of_known_graphs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3 and 4 facts 3, 2 and 1 agree."""
    scorer = RadGraph(folder, CPU)
    monkeypatch.setattr(scorer, "_parser", lambda texts: {"0": {"entities": GRAPHS[texts[0]]}})
    scores = scorer.score([("reference", "generated"), ("generated", "reference")])
    for level, agreeing in {"simple": 3, "partial": 2, "complete": 1}.items():
        assert scores[level] == pytest.approx([2 * agreeing / 7] * 2)

    monkeypatch.setattr(scorer, "_parser", lambda texts: {})
    with pytest.raises(UserError, match="cannot parse the report 'reference'"):
        scorer.score([("reference", "generated")])


@needs_radgraph
@pytest.mark.usefixtures("weights")
def test_other_files_are_refused(folder: Path) -> None:
    state = torch.load(folder / "weights.th", weights_only=True)
    del state["_coref._distance_embedding.weight"]
    torch.save(state, folder / "weights.th")
    with pytest.raises(UserError, match=r"(?s)radgraph cannot read .*distance_embedding"):
        RadGraph(folder, CPU)


@pytest.mark.parametrize(
    "name", ["weights.th", "vocabulary/non_padded_namespaces.txt", "encoder/config.json",
             "encoder/vocab.txt"],
)  # fmt: skip
def test_a_missing_file_is_named(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uar.evaluation.clinical.radgraph.INSTALLED", True)
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{Path(name).name} is missing; .* radgraph.tar.gz "):
        RadGraph(folder, CPU)


def test_a_folder_of_another_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uar.evaluation.clinical.radgraph.INSTALLED", True)
    with pytest.raises(UserError, match=", ".join(MODELS)):
        RadGraph(tmp_path / "echograph", CPU)


@pytest.mark.parametrize(
    "place", [("model",), ("model", "embedder", "token_embedders", "bert"), ("dataset_reader",),
              ("model", "list", 0)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["os.path.join", "evil.module.Class", "./evil", "a b", ["x.y"]])
def test_a_type_that_the_package_would_import_is_refused(
    place: tuple[Any, ...], name: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uar.evaluation.clinical.radgraph.INSTALLED", True)
    config = json.loads(json.dumps(CONFIG))
    config["model"]["list"] = [{}]
    section = config
    for key in place:
        section = section[key]
    section["type"] = name
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config.json names the type .* would import"):
        RadGraph(folder, CPU)


@needs_radgraph
@pytest.mark.usefixtures("offline", "weights")
def test_the_packages_registry_cannot_import(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a name ever pass the list."""
    monkeypatch.setattr("uar.evaluation.clinical.radgraph._types", lambda config: set())
    config = json.loads(json.dumps(CONFIG))
    config["model"]["modules"]["ner"]["regularizer"] = {"regexes": [["x", "antigravity.Class"]]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="would make the package import 'antigravity'"):
        RadGraph(folder, CPU)
    assert "antigravity" not in sys.modules
