"""Every stage from end to end, every variant of Tables 2-4, and dvc.yaml against the code."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

import uar
from pipeline import paths
from pipeline.__main__ import COMMANDS, app
from pipeline.experiments.dvc import code_in
from pipeline.experiments.folders import read_folder
from pipeline.experiments.results import without_reports
from pipeline.experiments.rows import Ablations
from pipeline.inputs import Inputs
from pipeline.provenance import stages
from pipeline.stages.evaluate import nearest_by_features
from tests.conftest import ROOT, TINY, labeller, override, read_params, uncounted
from uar.analysis.heatmap import color_levels, heatmap_ceiling
from uar.analysis.saving import Caption, save_figure
from uar.core.errors import UserError
from uar.core.files import read_json, read_table, sha256, write_json, write_table
from uar.core.params_file import known_keys, load_params
from uar.core.runs import read_runs
from uar.evaluation.meteor import METEOR_STATISTICS
from uar.evaluation.metrics import METRICS
from uar.evaluation.predictions import read_predictions, write_predictions
from uar.evaluation.summary import HEADLINE
from uar.inference.word_attention import recorded_attention
from uar.model.aligner import DualGate
from uar.model.checkpoint import Checkpoint
from uar.model.ensemble import Ensemble
from uar.model.likelihood import report_cross_entropy
from uar.training.stage import Trainer

DVC: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES: dict[str, dict[str, Any]] = DVC["stages"]
PREPARATION = ["ingest", "preprocess", "vocabulary", "dvae", "tokenize", "probe", "judge"]
TRAINING = ["train_stage_one", "train_stage_two", "train_stage_three"]
TRAINING += ["evaluate", "export", "analyze"]

# params.yaml's extractor is a tenth of TINY's ResNet; its cells are of 16 pixels.
SIZES = TINY | {"model.extractor.network": "efficientnet_lite0", "image.crop": 16}
ONE_EPOCH = {"train.stage_one.epochs": 1, "train.stage_two.epochs": 1}

ABLATIONS = Ablations.load(ROOT / paths.ABLATIONS)
VARIANTS = ABLATIONS.models(ABLATIONS.tables)


def run(*arguments: str) -> None:
    """A command of `python -m pipeline`, here and now."""
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception


def write_params(folder: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    raw = deepcopy(read_params())
    for key, value in (SIZES | overrides).items():
        override(raw, key, value)
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    return raw


def seal() -> None:
    """Make the files at hand, changed by a test, pass for those that the stages made."""
    params = load_params(paths.PARAMS)
    for stage in stages().values():
        if all(path.exists() for path in (*stage.inputs, *stage.outs)):
            stage.write_record(params)


OPENED: dict[str, set[Path]] = {stage: set() for stage in STAGES}  # by each stage of `chain`


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which every stage has run on the demo, METEOR and all."""
    folder = tmp_path_factory.mktemp("chain")
    write_params(folder, {})
    running = ""

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if running and event == "open" and isinstance(arguments[0], str):
            path = Path(os.path.abspath(arguments[0]))
            if path.is_relative_to(folder):
                OPENED[running].add(path.relative_to(folder))

    sys.addaudithook(note)  # for good: it does nothing once `running` is empty
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for running in STAGES:
            run(running)
    running = ""
    yield folder


@pytest.fixture
def project(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Makes the working folder one with `chain`'s data and models and changed parameters.

    What takes seconds is left to `chain`: METEOR, the coco protocol's tokenizer, 1,000 resamples,
    the counting of FLOPs and how many are possible, the labeller's rules loaded anew.
    """
    monkeypatch.setattr(
        "uar.evaluation.protocols.meteor_statistics",
        lambda gts, res: np.ones((len(gts), METEOR_STATISTICS)),
    )
    monkeypatch.setattr("pipeline.measures.Labeller", labeller)
    for name in ("flops_per_study", "measured_peak"):
        monkeypatch.setattr(f"uar.training.speed.{name}", uncounted)
    monkeypatch.chdir(tmp_path)

    def make(overrides: dict[str, Any]) -> dict[str, Any]:
        copy_chain(chain, tmp_path, "data", "models", "provenance", "dvclive")
        lighter = {"evaluate.protocols": ["r2gen"], "evaluate.resamples": 20}
        return write_params(tmp_path, lighter | overrides)

    return make


def copy_chain(chain: Path, to: Path, *names: str) -> None:
    for name in names:
        shutil.copytree(chain / name, to / name, ignore=shutil.ignore_patterns("raw"))


@pytest.fixture
def evaluated(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the working folder one in which `chain`'s figures are to be drawn again."""
    copy_chain(chain, tmp_path, "data", "models", "provenance", "dvclive", "evaluation")
    write_params(tmp_path, {})
    monkeypatch.chdir(tmp_path)


def render_only(monkeypatch: pytest.MonkeyPatch, *names: str, speed: bool = False) -> None:
    """Compose the other figures, but leave their files empty: rendering them takes seconds."""

    def save(figure: Figure, caption: Caption, *, png: Path, pdf: Path) -> None:
        if png.stem in names:
            save_figure(figure, caption, png=png, pdf=pdf)
            return
        png.touch()
        pdf.touch()

    monkeypatch.setattr("uar.analysis.saving.save_figure", save)
    if not speed:
        monkeypatch.setattr("pipeline.stages.analyze.draw_speed", lambda: None)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    return [] if value is None else [value]


# ---- end to end


def test_the_chain_makes_all_that_dvc_tracks(chain: Path) -> None:
    for stage, spec in STAGES.items():
        for out in outputs(spec):
            assert (chain / out).exists(), (stage, out)
    assert DVC["plots"] == [str(paths.FIGURES)]  # images: shown without a network
    assert all(path.suffix == ".lock" for path in chain.glob(".resume/*"))
    assert not list(chain.rglob("*.partial"))


def test_the_chains_data_fit_each_other(chain: Path) -> None:
    studies = read_table(chain / paths.STUDIES)
    assert len(studies) == TINY["dataset.demo.studies"]
    images = np.load(chain / paths.IMAGES)
    assert images.shape == (40, 32, 32)
    assert images.dtype == np.uint8
    tokens = np.load(chain / paths.TOKENS)
    assert tokens.shape == (40, 1 + TINY["tokenize.crops"], 4)
    assert tokens.dtype == np.uint16
    training = np.repeat((studies["split"] == "train").to_numpy(), 2)
    assert (tokens[~training] == tokens[~training][:, :1]).all()
    assert (tokens[training][:, 1] != tokens[training][:, 2]).any()


def test_the_chains_metrics(chain: Path) -> None:
    details = read_json(chain / paths.DETAILS)
    metrics = details["scores"]["model"]
    systems = ["constant_report", "nearest_tokens", "nearest_features", "shuffled_images"]
    assert list(details["scores"]) == ["model", *systems]
    for scores in details["scores"].values():
        for protocol in ("r2gen", "coco"):
            assert list(scores[protocol]) == list(METRICS)
    assert details["scores"]["constant_report"]["r2gen"]["METEOR"] > 0.05
    for group, names in details["intervals"].items():
        for name, bounds in names.items():
            value = metrics[group].get(name)
            if group == "clinical":
                average, score = name.split()
                value = metrics[group][average][score]
            assert bounds["low"] <= value <= bounds["high"], (group, name)
    assert details["selection"]["epoch"] in (1, 2)
    assert details["selection"]["split"] == "val"

    tracked = read_json(chain / paths.METRICS)
    assert all(math.isfinite(number) for number in numbers(tracked))
    assert list(tracked) == list(HEADLINE)
    shuffled_scores = details["scores"]["shuffled_images"]["r2gen"]
    assert tracked["CIDEr"] == round(metrics["r2gen"]["CIDEr"], 4)
    assert tracked["shuf_C"] == round(shuffled_scores["CIDEr"], 4)
    assert tracked["F1"] == round(metrics["clinical"]["micro"]["F1"], 4)
    assert tracked["distinct"] == details["text"]["model"]["distinct_reports"]
    # params.yaml of the working tree, in which a user may have chosen native
    portable = load_params(chain / paths.PARAMS).arithmetic == "portable"
    text = "text:beam:3,lp:1" + (",arithmetic:portable" if portable else "")
    assert details["signatures"]["r2gen"]["BLEU-4"].startswith(
        f"BLEU-4|r2gen|words:blank|refs:cleaned,cut:16,unk:yes|{text}|n:4|data:"
    )

    predictions = read_predictions(chain / paths.PREDICTIONS)
    reports = read_table(chain / paths.REPORTS)
    test = reports[reports["split"] == "test"]
    assert [p.study_id for p in predictions] == test["study_id"].tolist()
    assert [p.report for p in predictions] == test["report"].tolist()
    cut = TINY["report.max_length"] - 1
    for prediction, cleaned in zip(predictions, test["cleaned"], strict=True):
        assert prediction.log_probability < 0
        assert len(prediction.generated.split()) <= TINY["report.max_length"]
        words, expected = prediction.reference.split(), cleaned.split()[:cut]
        assert len(words) == len(expected)
        assert all(w in (e, "<unk>") for w, e in zip(words, expected, strict=True))
    studies = pd.read_csv(chain / paths.STUDY_SCORES)
    assert studies["study_id"].tolist() == test["study_id"].tolist()
    assert studies["words"].tolist() == [len(p.generated.split()) for p in predictions]
    for name in ("ROUGE-L", "CIDEr"):
        assert studies[name].mean() == pytest.approx(metrics["r2gen"][name])
    assert details["checkpoint_sha256"] == sha256(chain / paths.STAGE_TWO)
    assert details["data_sha256"][str(paths.REPORTS)] == sha256(chain / paths.REPORTS)
    assert details["packages"]["numpy"] == np.__version__
    release = torch.__version__.split("+")[0]  # not which build: hashes are of any index's
    assert details["packages"]["torch"] == release
    assert read_json(chain / paths.TOKENS_INFO)["torch_version"] == release
    shuffled = read_predictions(chain / paths.SHUFFLED_PREDICTIONS)
    same = [a.generated == b.generated for a, b in zip(predictions, shuffled, strict=True)]
    assert tracked["unchanged"] == round(sum(same) / len(same), 4)
    assert [p.reference for p in shuffled] == [p.reference for p in predictions]


def test_the_chains_figures(chain: Path) -> None:
    """A figure is there for each part of the metrics, and every figure has its numbers."""
    names = ["curves", "figure3_image_to_report", "figure3_report_to_image", "figure4_alignment"]
    names += ["figure5_basis", "figure6_reconstruction", "figure7_attention_1"]
    names += ["figure7_attention_2", "grounding"]  # two validation studies
    figures = {path.stem: path.read_bytes() for path in (chain / paths.FIGURES).iterdir()}
    assert sorted(figures) == names
    assert all(
        content.startswith(b"\x89PNG") and len(content) > 9_000 for content in figures.values()
    )
    assert sorted(path.stem for path in (chain / paths.FIGURES_PDF).iterdir()) == names
    page = (chain / paths.CURVES).read_text()
    assert "data:image/svg+xml;base64," in page
    assert "<td>stage two</td><td>validation: CIDEr</td><td>2</td>" in page  # epochs of the chain
    assert not re.search(r"(src|href)=\"(?!data:)", page)

    metrics = read_json(chain / paths.ANALYSIS_DETAILS)
    assert all(math.isfinite(number) for number in numbers(metrics))
    assert read_json(chain / paths.ANALYSIS) == {
        "alignment": round(metrics["alignment"]["stage_two"]["score"], 4),
        "R@5": round(metrics["retrieval"]["image_to_report"]["R@5"], 4),
        "pointing": round(metrics["grounding"]["with_TIR"]["pointing"], 4),
        "chance": round(metrics["grounding"]["chance"]["pointing"], 4),
    }
    assert set(metrics["alignment"]) == {"stage_one", "stage_two"}
    assert metrics["basis"]["start"]["max_abs_cosine"] < 1e-5
    assert metrics["basis"]["trained"]["max_abs_cosine"] > 1e-4
    ranks = pd.read_csv(chain / paths.FIGURE_NUMBERS / "figure3_ranks.csv")
    reports = read_table(chain / paths.REPORTS)
    assert ranks["study_id"].tolist() == reports.query("split == 'val'")["study_id"].tolist()
    for way in ("image_to_report", "report_to_image"):
        assert metrics["retrieval"][way]["R@1"] == (ranks[way] == 1).mean()
    cosine = pd.read_csv(chain / paths.FIGURE_NUMBERS / "figure4_cosine_stage_two.csv", index_col=0)
    np.testing.assert_allclose(np.diagonal(cosine), ranks["cosine"], rtol=1e-4)
    mentions = pd.read_csv(chain / paths.FIGURE_NUMBERS / "grounding.csv")
    of_model = mentions[mentions["model"] == "with TIR"]
    assert metrics["grounding"]["with_TIR"]["pointing"] == of_model["pointing"].mean()
    assert metrics["grounding"]["mentions"] == len(of_model)


@pytest.mark.usefixtures("evaluated")
def test_figures_drawn_again_are_the_same_bytes(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines and legends, films and text; and the numbers behind every figure."""
    drawn = ("curves", "figure6_reconstruction")
    render_only(monkeypatch, *drawn)
    run("analyze")
    same = [folder / name for name in drawn for folder in (paths.FIGURES, paths.FIGURES_PDF)]
    same = [next((chain / path.parent).glob(f"{path.name}.*")) for path in same]
    same += sorted((chain / paths.FIGURE_NUMBERS).iterdir())
    for path in same:
        assert path.relative_to(chain).read_bytes() == path.read_bytes(), path.name
    assert paths.CURVES.read_bytes() == (chain / paths.CURVES).read_bytes()
    assert paths.ANALYSIS_DETAILS.read_bytes() == (chain / paths.ANALYSIS_DETAILS).read_bytes()


@pytest.mark.usefixtures("evaluated")
def test_figures_are_of_the_files_at_hand(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other logs are refused where no training made them, and drawn where one did.

    There need be no boxes; and stage two may have kept the model it began with: its best epoch is
    then 0, as an untrained model's.
    """
    render_only(monkeypatch, "curves")
    curves = (paths.FIGURES / "curves.png", paths.CURVES)
    before = [(chain / path).read_bytes() for path in curves]
    log = paths.LOGS / "stage_one/plots/metrics/train/loss.tsv"
    table = pd.read_csv(log, sep="\t")
    table["loss"] += 1
    table.to_csv(log, sep="\t", index=False)
    with pytest.raises(UserError, match="dvclive/stage_one/plots has SHA-256"):
        run("analyze")
    write_table(paths.BOXES, read_table(paths.BOXES)[:0])
    seal()
    load = Checkpoint.load
    monkeypatch.setattr(Checkpoint, "load", lambda path: replace(load(path), epoch=0))
    run("analyze")
    after = [path.read_bytes() for path in curves]
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert f"<td>{table['loss'].iloc[-1]:.5g}</td>" in paths.CURVES.read_text()
    details = read_json(paths.ANALYSIS_DETAILS)
    assert set(details["alignment"]) == {"stage_one", "stage_two"}
    assert details["retrieval"]["image_to_report"]["R@5"] >= 0
    assert details["grounding"] is None
    assert not (paths.FIGURES / "grounding.png").exists()
    assert (paths.FIGURES / "figure7_attention_1.png").exists()


def test_the_chains_page(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each study with its own films, reports, scores, and the attention of its own words."""
    monkeypatch.chdir(chain)
    page = paths.PAGE.read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    predictions, scores = read_predictions(paths.PREDICTIONS), pd.read_csv(paths.STUDY_SCORES)
    inputs = Inputs(load_params(paths.PARAMS))
    studies, images = inputs.studies("test"), np.load(paths.IMAGES)
    model = Checkpoint.load(paths.STAGE_TWO).build().eval()
    assert [entry["id"] for entry in data["studies"]] == [p.study_id for p in predictions]
    for i, (entry, prediction) in enumerate(zip(data["studies"], predictions, strict=True)):
        words = prediction.generated.split()
        assert [word for word, *_ in entry["generated"]] == words
        assert [word for word, *_ in entry["reference"]] == prediction.report.split()
        cider = entry["scores"][data["scores"].index("CIDEr")]
        assert cider == pytest.approx(scores["CIDEr"][i], abs=1e-4)
        for film, row in zip(entry["films"], studies.rows[i], strict=True):
            shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(film))))
            assert np.abs(shown.astype(int) - images[row]).mean() < 4

        report = inputs.vocabulary.encode(prediction.generated, TINY["report.max_length"])
        visual = studies.visual.whole(studies.rows[[i]])
        with torch.inference_mode(), recorded_attention(model) as layers:
            model(visual, torch.from_numpy(report)[None], None)
        attention = torch.stack(layers).mean(dim=0)[0, : len(words)].numpy()
        peaks = (attention * attention.shape[1]).max(axis=1, initial=0)
        np.testing.assert_allclose(entry["peaks"], peaks, atol=0.06)
        levels = np.frombuffer(base64.b64decode(entry["attention"]), np.uint8)
        levels = levels.reshape(attention.shape).astype(int)
        times_uniform = attention * attention.shape[1]
        own = color_levels(times_uniform, heatmap_ceiling(times_uniform)).astype(int)
        assert np.abs(levels - own).max(initial=0) <= 1


def test_the_chains_bundle_says_what_evaluate_says(chain: Path) -> None:
    """From the raw films again: the same tokens, bit for bit, and the same reports."""
    reporter = uar.load(chain / paths.BUNDLE)
    studies = read_table(chain / paths.STUDIES)
    tokens = np.load(chain / paths.TOKENS)
    predictions = read_predictions(chain / paths.PREDICTIONS)
    test = studies[studies["split"] == "test"]
    assert len(predictions) == len(test) > 1
    root, sure = chain / "data/raw/demo/images", []
    for (row, study), prediction in zip(test.iterrows(), predictions, strict=True):
        assert study["study_id"] == prediction.study_id
        prepared = reporter.prepare([root / path for path in study["image_paths"]])
        np.testing.assert_array_equal(prepared.visual, tokens[2 * row : 2 * row + 2, 0])
        report = reporter.write([prepared])[0]
        assert " ".join(report.words) == prediction.generated
        assert report.log_probability == pytest.approx(prediction.log_probability, abs=1e-3)
        sure += [certainty for certainty in report.certainties if certainty is not None]
    details = read_json(chain / paths.DETAILS)
    assert reporter.bundle.evidence.studies == details["evidence"]["studies"] == 2
    assert reporter.bundle.evidence.written == details["evidence"]["written"]
    claiming = details["certainty"]["test"]["sentences"]
    if claiming is None:  # what so little training writes may say nothing
        assert not sure
    else:
        bins = [(held["count"], held["predicted"]) for held in claiming["bins"]]
        assert len(sure) == claiming["claiming"] == sum(count for count, _ in bins)
        assert sum(sure) == pytest.approx(sum(count * mean for count, mean in bins), rel=1e-6)


def test_reports_are_chosen_among_samples(
    chain: Path, project: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """And the bundle chooses, of the raw films, what evaluate has chosen."""
    samples = {"decode.choose": "samples", "decode.samples": 4, "decode.findings_threshold": 0.05}
    project(samples | {"evaluate.meteor": False})
    run("evaluate")
    details = read_json(paths.DETAILS)
    assert (
        "|text:samples:4,temperature:0.7,findings:10@0.05,seed:0"
        in (details["signatures"]["r2gen"]["BLEU-4"])
    )
    assert details["decode"]["choose"] == "samples"
    run("export")
    reporter = uar.load(paths.BUNDLE)
    predictions = read_predictions(paths.PREDICTIONS)
    studies = read_table(paths.STUDIES)
    root = chain / "data/raw/demo/images"
    films = studies[studies["split"] == "test"]["image_paths"]
    for of_study, prediction in zip(films, predictions, strict=True):
        prepared = reporter.prepare([root / path for path in of_study])
        assert " ".join(reporter.write([prepared])[0].words) == prediction.generated
    beams = read_predictions(chain / paths.PREDICTIONS)
    assert [p.generated for p in predictions] != [p.generated for p in beams]
    judged = read_json(paths.JUDGE_SUMMARY)
    assert set(judged) == {"held_out_nats", "features", "penalty", "validation", "findings"}
    assert judged["validation"]["studies"] == 2


def other_runs(chain: Path, count: int) -> list[str]:
    """Checkpoints of other runs in the working folder: the chain's with other heads."""
    checkpoint = Checkpoint.load(chain / paths.STAGE_TWO)
    generator = torch.Generator().manual_seed(0)
    names = []
    for number in range(count):
        weights = {
            name: weight + 0.5 * torch.randn(weight.shape, generator=generator)
            if name.startswith("head.")
            else weight
            for name, weight in checkpoint.weights.items()
        }
        names.append(f"other{number}.safetensors")
        replace(checkpoint, weights=weights).save(Path(names[-1]))
    return names


def test_several_runs_write_together(
    chain: Path, project: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """And the bundle holds them all: it writes, of the raw films, what evaluate has written."""
    project({})
    others = other_runs(chain, 2)
    write_params(Path(), {"decode.ensemble": others, "evaluate.protocols": ["r2gen"]})
    run("evaluate")
    details = read_json(paths.DETAILS)
    assert "|text:beam:3,lp:1,models:3" in details["signatures"]["r2gen"]["BLEU-4"]
    assert details["ensemble_sha256"] == [sha256(Path(name)) for name in others]
    record = read_json(paths.PROVENANCE / "evaluate.json")
    assert all(record["made_from"][name] == sha256(Path(name)) for name in others)
    models = [
        Checkpoint.load(path).build().eval() for path in (paths.STAGE_TWO, *map(Path, others))
    ]
    inputs = Inputs(load_params(paths.PARAMS))
    [batch] = inputs.studies("test").batches(100)
    with torch.no_grad():
        output = Ensemble(models)(batch.visual, batch.report)
    nats = report_cross_entropy(output.logits, batch.report[:, 1:])
    predictions = read_predictions(paths.PREDICTIONS)
    assert [p.cross_entropy for p in predictions] == pytest.approx(nats.tolist(), rel=1e-4)

    run("export")
    for name in others:
        Path(name).unlink()  # the bundle is whole without them
    reporter = uar.load(paths.BUNDLE)
    assert len(reporter.bundle.members) == 2
    studies = read_table(paths.STUDIES)
    films = studies[studies["split"] == "test"]["image_paths"]
    for of_study, prediction in zip(films, predictions, strict=True):
        prepared = reporter.prepare([chain / "data/raw/demo/images" / path for path in of_study])
        assert " ".join(reporter.write([prepared])[0].words) == prediction.generated
    with pytest.raises(UserError, match=r"other0.safetensors is missing"):
        run("evaluate")


def test_a_run_learns_from_others(
    chain: Path, project: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    project({})
    teachers = other_runs(chain, 2)
    write_params(Path(), {"train.teachers": teachers})
    run("train_stage_one")
    log = paths.LOGS / "stage_one/plots/metrics/train/teachers.tsv"
    assert (pd.read_csv(log, sep="\t")["teachers"] > 0).all()
    plain, taught = (Checkpoint.load(folder / paths.STAGE_ONE) for folder in (chain, Path()))
    assert taught.weights.keys() == plain.weights.keys()
    assert not torch.equal(taught.weights["head.weight"], plain.weights["head.weight"])


def test_runs_of_other_words_or_of_an_early_version_are_refused(
    chain: Path, project: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    project({})
    checkpoint = Checkpoint.load(chain / paths.STAGE_TWO)
    for sha, said in [
        ("f" * 64, "was trained with a vocabulary other than"),
        (None, "does not say"),
    ]:
        replace(checkpoint, vocabulary_sha256=sha).save(Path("other.safetensors"))
        write_params(Path(), {"decode.ensemble": ["other.safetensors"]})
        with pytest.raises(UserError, match=f"^other.safetensors {said}"):
            run("evaluate")


def test_a_model_that_reads_pixels_is_not_exported_with_a_judge(
    project: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    project({})
    run("evaluate")
    write_params(Path(), {"model.lsu": False, "decode.choose": "samples"})
    seal()
    with pytest.raises(UserError, match="decode.findings_weight 0"):
        run("export")


def test_the_chains_bundle_names_the_studies_that_evaluate_calls_nearest(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(chain)
    reporter = uar.load(paths.BUNDLE)
    inputs = Inputs(load_params(paths.PARAMS))
    model = Checkpoint.load(paths.STAGE_TWO).build().eval()
    test, train = inputs.studies("test"), inputs.studies("train")
    nearest = nearest_by_features(model, test, train, batch_size=4)
    table = inputs.split_table("train")
    studies = read_table(paths.STUDIES)
    films = studies[studies["split"] == "test"]["image_paths"]
    for place, files in zip(nearest, films, strict=True):
        report = reporter.report([Path("data/raw/demo/images") / file for file in files])
        first = report.similar[0]
        assert (first.study_id, first.report) == tuple(table.iloc[place][["study_id", "report"]])
    own = studies[studies["split"] == "train"].iloc[3]
    report = reporter.report([Path("data/raw/demo/images") / file for file in own["image_paths"]])
    assert report.similar[0].cosine == pytest.approx(1, abs=1e-5)
    assert own["study_id"] in [study.study_id for study in report.similar]


def test_the_example_of_the_documentation(
    chain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(chain)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/report.md").read_text(), re.S)
    exec(code, {})
    said = capsys.readouterr().out.splitlines()
    shown = read_table(paths.STUDIES).query("study_id == 'demo0003'")
    assert shown["split"].tolist() == ["test"]  # no study that the model was trained on
    films = sorted((chain / "data/raw/demo/images/demo0003").iterdir())
    report = uar.load(paths.BUNDLE).report(films)
    assert said[0] == report.text
    assert str(report.attention.shape) in said
    assert said[-2:] == [str(len(report.words))] * 2


def test_an_export_of_two_runs_is_refused(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(chain, tmp_path / "other", ignore=shutil.ignore_patterns("raw"))
    monkeypatch.chdir(tmp_path / "other")
    details = json.loads(paths.DETAILS.read_text())
    paths.DETAILS.write_text(json.dumps(details | {"checkpoint_epoch": 99}))
    with pytest.raises(UserError, match="evaluation/details.json has SHA-256 .* but evaluate made"):
        run("export")


def test_the_chains_models(chain: Path) -> None:
    one, two = (Checkpoint.load(chain / path) for path in (paths.STAGE_ONE, paths.STAGE_TWO))
    assert not any(".refiner." in name for name in one.weights)
    assert any(".refiner." in name for name in two.weights)
    assert one.encoder_sha256 == two.encoder_sha256
    assert one.encoder_sha256 == read_json(chain / paths.TOKENS_INFO)["encoder_sha256"]
    assert torch.equal(one.weights["aligner.basis"], two.weights["aligner.basis"])
    basis = two.weights["aligner.basis"]
    torch.testing.assert_close(basis.T @ basis, torch.eye(16), atol=1e-5, rtol=0)


def test_without_epochs_stage_three_hands_on_stage_twos_model(chain: Path) -> None:
    three, two = ((chain / path).read_bytes() for path in (paths.STAGE_THREE, paths.STAGE_TWO))
    assert three == two
    assert read_json(chain / paths.LOGS / "stage_three/selected.json") == {}
    assert not list((chain / paths.LOGS / "stage_three/plots").rglob("*.tsv"))
    details = read_json(chain / paths.DETAILS)
    assert details["selection"]["by"] == "CIDEr"  # of stage two: TINY's
    runs = read_runs(chain / paths.RUN_LOG)
    assert runs[sha256(chain / paths.STAGE_THREE)].start == sha256(chain / paths.STAGE_ONE)


def test_a_model_trained_by_its_reports_is_the_one_that_is_used(
    project: Callable[[dict[str, Any]], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    render_only(monkeypatch, speed=True)
    monkeypatch.setattr("uar.evaluation.clinical.sentences.Labeller", labeller)
    project({"train.stage_three.epochs": 2, "train.select_by": "cross_entropy"})
    for stage in ("train_stage_three", "evaluate", "analyze"):
        run(stage)
    two, three = (Checkpoint.load(path) for path in (paths.STAGE_TWO, paths.STAGE_THREE))
    begun = all(torch.equal(weight, two.weights[n]) for n, weight in three.weights.items())
    assert (three.epoch == 0) == begun
    assert (three.epoch == 0) == ("its model is not used" in caplog.text)
    rewards = paths.LOGS / "stage_three/plots/metrics/val/reward.tsv"
    assert len(rewards.read_text().splitlines()) == 1 + 3  # epoch 0 too
    assert read_json(paths.LOGS / "stage_three/selected.json") == {
        "val3_C": round(three.validation["CIDEr"], 4), "val3_F1": round(three.validation["F1"], 4)
    }  # fmt: skip
    chosen = read_json(paths.DETAILS)["selection"]
    assert (chosen["by"], chosen["epoch"]) == ("CIDEr", three.epoch)
    assert chosen["validation"] == three.validation
    assert read_json(paths.DETAILS)["checkpoint_sha256"] == sha256(paths.STAGE_THREE)
    assert {"stage_one", "stage_two", "stage_three"} == set(
        read_json(paths.ANALYSIS_DETAILS)["alignment"]
    )
    score = read_json(paths.ANALYSIS_DETAILS)["alignment"]["stage_three"]["score"]
    assert read_json(paths.ANALYSIS)["alignment"] == round(score, 4)
    page = paths.CURVES.read_text()
    assert "<td>stage three</td><td>validation: CIDEr with another study" in page
    assert ("its model is not used" in page) == (three.epoch == 0)
    runs = read_runs(paths.RUN_LOG)
    assert runs[sha256(paths.STAGE_THREE)].start == sha256(paths.STAGE_TWO)


def test_paired_comparison_of_a_model_and_its_control(
    project: Callable[[dict[str, Any]], dict[str, Any]], chain: Path
) -> None:
    project({})
    model, control = (chain / path for path in (paths.PREDICTIONS, paths.SHUFFLED_PREDICTIONS))
    result = CliRunner().invoke(app, ["compare", "--paired", str(control), str(model)])
    assert result.exception is None
    expected = read_json(chain / paths.DETAILS)["scores"]
    for scores in (expected["model"], expected["shuffled_images"]):
        for name in ("BLEU-1", "ROUGE-L", "CIDEr"):
            [row, *_] = [line for line in result.output.splitlines() if name in line]
            assert f"{scores['r2gen'][name]:.3f}" in row
    assert "micro F1" in result.output

    write_predictions(Path("fewer.jsonl"), read_predictions(model)[1:])
    with pytest.raises(UserError, match=r"fewer.jsonl: \d studies against \d; evaluate both"):
        run("compare", "--paired", str(model), "fewer.jsonl")


def test_the_chain_is_a_result_with_its_epochs(chain: Path) -> None:
    """Made stage by stage without DVC; what was chosen is the best of what validation saw."""
    result = read_folder(chain, ABLATIONS)
    assert (result.seed, result.device, result.code) == (0, "cpu", code_in(ROOT))
    assert result.details == without_reports(read_json(chain / paths.DETAILS))
    chosen = result.details["selection"]
    assert result.curves is not None
    for name in (chosen["by"], "image_gain", "cross_entropy", "distinct_reports"):
        curve = dict(result.curves["stage_two"][name])
        assert curve[chosen["epoch"]] == chosen["validation"][name]
    assert (
        max(curve for _, curve in result.curves["stage_two"][chosen["by"]])
        == (chosen["validation"][chosen["by"]])
    )
    assert set(result.curves) == {"stage_one", "stage_two"}


def logged(stage: str) -> dict[str, Any]:
    return json.loads((paths.LOGS / stage / "metrics.json").read_text())


def test_findings_are_labelled_seen_and_prompt_the_reports(
    project: Callable[[dict[str, Any]], dict[str, Any]],
    chain: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    render_only(monkeypatch, "reliability")
    project(
        {
            "model.findings": True,
            "model.word_dropout": 0.3,
            "model.feature_dropout": 0.3,
            "model.visual_pool": 2,
            "train.smoothness": 0.05,
            "train.abnormal_weight": 2.0,
            "train.whole_view": True,
            "train.mask_learning_rate": 0.01,
        }
    )
    for stage in TRAINING:
        run(stage)
    reports = read_table(paths.REPORTS)
    effusions = reports["findings"].map(lambda names: "Pleural Effusion" in names)
    said = reports["report"].str.contains("effusion", case=False)
    assert effusions.any()
    assert said[effusions].all()
    values = logged("stage_two")["val"]
    assert "findings_auc" not in values  # too few studies have any one finding
    assert 0 <= float(values["findings_f1"]) <= 1
    assert float(logged("stage_two")["train"]["findings"]) > 0
    checkpoint = Checkpoint.load(paths.STAGE_TWO)
    assert not torch.equal(checkpoint.weights["findings.thresholds"], torch.full((13,), 0.5))
    predictions = read_predictions(paths.PREDICTIONS)
    assert len(predictions) == (reports["split"] == "test").sum()
    drawn = pd.read_csv(paths.FIGURE_NUMBERS / "reliability.csv")
    findings = drawn.groupby(["split", "probabilities"])["count"].sum() / 13
    studies = reports["split"].value_counts()
    assert all(count == studies[split] for (split, _), count in findings.items())
    assert (paths.FIGURES / "reliability.png").exists()

    reporter = uar.load(paths.BUNDLE)
    studies = Inputs(load_params(paths.PARAMS)).studies("test")
    model = checkpoint.build().eval()
    with torch.no_grad():
        logits = model.finding_logits(studies.visual.whole(studies.rows), model.tables())
    scaling = read_json(paths.DETAILS)["findings_head"]["scaling"]
    slope, shift = scaling["slope"], scaling["shift"]
    films = read_table(paths.STUDIES)
    films = films[films["split"] == "test"]["image_paths"]
    told = (slope * logits + shift).sigmoid()
    for files, prediction, likely in zip(films, predictions, told, strict=True):
        report = reporter.report([chain / "data/raw/demo/images" / file for file in files])
        assert " ".join(report.words) == prediction.generated
        assert report.probabilities == pytest.approx(likely.tolist(), abs=1e-5)
        of_logits = checkpoint.weights["findings.thresholds"]
        found = torch.tensor([finding.threshold for finding in report.findings])
        assert torch.equal(found > 1, of_logits > 1)  # never exceeded
        below = found < 1
        exceeded = (likely.logit()[below] - shift) / slope > of_logits[below].logit()
        assert torch.equal(likely[below] > found[below], exceeded)


def test_a_data_set_that_only_its_reader_knows_is_evaluated_and_exported(
    project: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """Its name stands where others have a title or terms."""
    project({"dataset.name": "theirs", "evaluate.meteor": False})
    seal()
    for stage in ("evaluate", "export"):
        run(stage)
    assert "<title>theirs, test split" in paths.PAGE.read_text()
    assert uar.load(paths.BUNDLE).bundle.provenance["dataset"] == "theirs"


def test_tune_compares_decoding_on_validation(
    project: Callable[[dict[str, Any]], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project({})
    monkeypatch.setenv("COLUMNS", "140")
    beam = load_params(paths.PARAMS).decode.beam_size
    splits: list[str] = []
    studies = Inputs.studies
    monkeypatch.setattr(
        Inputs, "studies", lambda self, split: splits.append(split) or studies(self, split)
    )
    result = CliRunner().invoke(app, ["tune", "--beams", f"1,{beam}"])
    assert result.exception is None
    assert splits == ["val"]
    rows = [line for line in result.output.splitlines() if line.startswith("beam")]
    assert [row.split(",")[0] for row in rows] == ["beam 1", f"beam {beam}"]
    validation = Checkpoint.load(paths.STAGE_TWO).validation
    values = rows[1].split("guidance 0")[1].split()
    for place, name in ((0, "BLEU-1"), (1, "BLEU-4"), (3, "CIDEr")):
        assert float(values[place]) == pytest.approx(validation[name], abs=5.1e-4)
    assert float(values[8]) == validation["distinct_reports"]

    result = CliRunner().invoke(
        app,
        ["tune", "--choose", "samples", "--samples", "3", "--findings-weights", "0,5",
         "--findings-thresholds", "0.1,0.2"],
    )  # fmt: skip
    assert result.exception is None, result.output
    rows = [line for line in result.output.splitlines() if line.startswith("3 samples")]
    settings = [row.split("guidance")[0].split("findings")[1].strip(" ,") for row in rows]
    assert settings == ["0", "5@0.1", "5@0.2"]

    for arguments, message in (
        (("--choose", "beams"), "--choose: found beams"),
        (("--choose", "samples", "--temperatures", "0"), "decode.temperature"),
        (("--guidances", "1"), "needs a model trained with model.image_dropout"),
        (("--beams", "0"), "decode.beam_size"),
        (("--beams", "1.5"), "decode.beam_size"),
        (("--length-penalties", "a"), "--length-penalties: found 'a'"),
    ):
        with pytest.raises(UserError, match=message):
            run("tune", *arguments)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_tables_2_to_4(
    name: str,
    project: Callable[[dict[str, Any]], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two epochs of two steps, as the whole chain above; one row's extractor is a ResNet."""
    render_only(monkeypatch)
    resnet = {"model.extractor.network": "resnet"} if name == "base" else {}
    raw = project(VARIANTS[name] | resnet)
    model, train = raw["model"], raw["train"]
    for stage in TRAINING[:4]:
        run(stage)
    if not train["two_stage"]:  # the variants to which not every figure applies
        run("analyze")
        assert_figures_that_apply(model, train)

    metrics = read_json(paths.METRICS)
    assert all(math.isfinite(number) for number in numbers(metrics))
    one, two = Checkpoint.load(paths.STAGE_ONE), Checkpoint.load(paths.STAGE_TWO)
    built = two.build()
    assert (built.unifier is not None) == model["lsu"]
    assert hasattr(built, "extractor") != model["lsu"]
    assert (two.encoder_sha256 is not None) == model["lsu"]
    assert (built.aligner is not None) == model["integration"]
    for layer in built.decoder.layers:
        assert (layer.refiner is not None) == (model["tir"] != "none")

    if built.aligner is not None:
        assert built.aligner.fusion == model["fusion"]
        assert isinstance(built.aligner.gate, DualGate) == (model["fusion"] == "dual_gate")
        gram = built.aligner.basis.T @ built.aligner.basis
        orthogonal = torch.allclose(gram, torch.eye(16), atol=1e-5)
        assert orthogonal == (model["basis"] == "orthogonal")
        if model["basis"] == "uniform":
            assert built.aligner.basis.abs().max() <= math.sqrt(3 / 32)

    begin, end = (0, 2) if train["two_stage"] else (1, 4)  # one stage has the epochs of both
    assert begin <= two.epoch <= end
    learning_rate = paths.LOGS / "stage_two" / "plots" / "metrics" / "learning_rate.tsv"
    assert len(learning_rate.read_text().splitlines()) == 1 + end - begin + 1
    assert (one.epoch > 0) == train["two_stage"]
    assert bool(logged("stage_one")) == train["two_stage"]
    runs = read_runs(paths.RUN_LOG)
    first, last = (runs[sha256(path)] for path in (paths.STAGE_ONE, paths.STAGE_TWO))
    assert last.start == first.checkpoint
    assert first.seconds is not None
    assert last.seconds is not None
    assert (first.seconds > 0) == train["two_stage"]
    assert last.seconds > first.seconds
    selected = read_json(paths.LOGS / "stage_two" / "selected.json")
    assert selected == {"val2_C": round(two.validation["CIDEr"], 4)}
    terms = logged("stage_two")["train"]
    expected = float(terms["language_modeling"])
    if train["lambda2"]:
        assert float(terms["global"]) > 0
        expected += float(terms["global"])
    if model["tir"] != "none":
        expected += float(terms["mask_sum"])
    assert float(terms["loss"]) == pytest.approx(expected, rel=1e-4)
    assert ("mask_sum" in terms) == (model["tir"] != "none")
    assert any(not torch.equal(one.weights[key], two.weights[key]) for key in one.weights)


def test_the_training_seed_changes_the_model_alone(
    chain: Path, project: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    project({"train.seed": 1, "train.two_stage": False})
    run("train_stage_one")  # initialises the model
    one, other = (Checkpoint.load(path / paths.STAGE_ONE) for path in (chain, Path()))
    assert not torch.equal(one.weights["aligner.basis"], other.weights["aligner.basis"])
    assert [stage for stage in STAGES if "train.seed" in params_of(stage)] == TRAINING[:3]


@pytest.mark.parametrize("queued", [True, False])
def test_untracked_files_are_found_from_a_queued_experiments_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queued: bool
) -> None:
    workspace = tmp_path / ".dvc" / "tmp" / "exps" / "copy"
    for folder in (workspace, tmp_path / "data" / "raw"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    if queued:
        monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    relative = Path("data/raw")
    assert paths.external(relative) == (tmp_path / relative if queued else relative)
    assert paths.external(tmp_path / relative) == tmp_path / relative
    assert paths.external("imagenet") == Path("imagenet")
    relative.mkdir(parents=True)
    assert paths.external(relative) == relative


def assert_figures_that_apply(model: dict[str, Any], train: dict[str, Any]) -> None:
    """Parts of analyze's metrics are null where the model has nothing to show."""
    analysis = read_json(paths.ANALYSIS_DETAILS)
    assert (analysis["basis"] is not None) == model["integration"]
    assert (analysis["reconstruction"] is not None) == model["lsu"]
    assert not train["two_stage"]
    assert set(analysis["alignment"]) == {"stage_two"}
    shown = "with_TIR" if model["tir"] != "none" else "without_TIR"
    assert set(analysis["grounding"]) == {"mentions", "chance", shown}
    pointing = round(analysis["grounding"][shown]["pointing"], 4)
    assert read_json(paths.ANALYSIS)["pointing"] == pointing


def test_a_stage_run_again_gives_the_same_bits(
    chain: Path, project: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    project({})
    for stage in TRAINING[:3]:
        run(stage)
    for path in (paths.STAGE_ONE, paths.STAGE_TWO):
        expected, actual = Checkpoint.load(chain / path), Checkpoint.load(path)
        assert expected.validation == actual.validation
        for name, weight in expected.weights.items():
            assert torch.equal(weight, actual.weights[name]), (path, name)


def test_masked_views_have_no_part_in_training_or_reports(
    project: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """Every study lacks its second view: whatever tokens stand there, the result is the same."""
    project({"dataset.missing_view": "mask"} | ONE_EPOCH)
    reports = read_table(paths.REPORTS)
    write_table(paths.REPORTS, reports.assign(views=[["frontal"]] * len(reports)))
    tokens = np.load(paths.TOKENS)
    results = []
    for offset in (0, 1):
        changed = tokens.copy()
        changed[1::2] = (tokens[1::2] + offset) % 512
        np.save(paths.TOKENS, changed)
        seal()
        for stage in TRAINING[:4]:
            run(stage)
        results.append((Checkpoint.load(paths.STAGE_TWO), read_predictions(paths.PREDICTIONS)))
    (one, reports_one), (other, reports_other) = results
    assert [p.generated for p in reports_one] == [p.generated for p in reports_other]
    assert one.validation == pytest.approx(other.validation)
    used = [name for name in one.weights if "unifier.visual" not in name]
    torch.testing.assert_close(*({n: c.weights[n] for n in used} for c in (one, other)))


def test_a_frozen_extractor_looks_once(
    project: Callable[[dict[str, Any]], dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """Stage two takes stage one's maps, and the model is the one that pixels train."""
    frozen: dict[str, Any] = {"model.lsu": False, "model.extractor.fine_tune": False}
    # untrained, it would see hardly anything: its statistics are those of no film
    frozen |= ONE_EPOCH | {"model.extractor.weights": "imagenet", "model.dropout": 0.0}
    frozen["train.select_by"] = "cross_entropy"
    project(frozen)
    trained = []
    for cached in (True, False):
        write_params(Path(), {**frozen, "train.cache_maps": cached})
        for stage in TRAINING[:3]:
            run(stage)
        assert (paths.MAPS / "maps.npy").is_file() == cached
        assert ("batches (.resume/maps/maps.npy)" in caplog.text) == cached
        caplog.clear()
        shutil.rmtree(paths.MAPS, ignore_errors=True)
        trained.append(Checkpoint.load(paths.STAGE_TWO))
    # they differ by 1e-7, as maps are float16; with maps of other films, by 2e-4 and more
    maps, pixels = (checkpoint.validation["cross_entropy"] for checkpoint in trained)
    assert maps == pytest.approx(pixels, rel=1e-5)
    name = "extractor.project.weight"
    assert not torch.equal(trained[0].weights[name], trained[1].weights[name])
    run(TRAINING[3])  # it reads pixels


@pytest.mark.parametrize("stage", ["train_stage_two", "evaluate"])
def test_a_token_cache_of_another_encoder_is_refused(
    stage: str, project: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    project({})
    info = read_json(paths.TOKENS_INFO)
    write_json(paths.TOKENS_INFO, {**info, "encoder_sha256": "ab" * 32})
    with pytest.raises(UserError, match=r"data/tokens.json has SHA-256 \w+, but tokenize made \w+"):
        run(stage)
    stages()["tokenize"].write_record(load_params(paths.PARAMS))
    message = "stage_one.*from data/tokens.json .*but data/tokens.json is now"
    with pytest.raises(UserError, match=message):
        run(stage)


@pytest.mark.parametrize("changes", [{}, {"model.lsu": False}])
def test_films_of_other_studies_than_the_reports_are_refused(
    project: Callable[[dict[str, Any]], dict[str, Any]], changes: dict[str, Any]
) -> None:
    project(changes)
    write_table(paths.REPORTS, read_table(paths.REPORTS)[1:])
    seal()
    message = r"reports.parquet has 19 studies, .* 38 rows, but data/\w+.npy has 40"
    with pytest.raises(UserError, match=message):
        run("train_stage_one")


def test_a_token_cache_of_another_shape_is_refused(
    project: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    project({})
    np.save(paths.TOKENS, np.load(paths.TOKENS)[:, :, :2])
    seal()
    with pytest.raises(UserError, match=r"data/tokens.npy is uint16 \(40, 3, 2\).*\(40, 3, 4\)"):
        run("train_stage_one")


def test_a_training_that_dvc_has_not_recorded_is_not_trained_again(
    project: Callable[[dict[str, Any]], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC is killed after the stage and before it writes dvc.lock; then it is not; then --force."""
    project({})
    monkeypatch.setenv("DVC_STAGE", "train_stage_one")
    trained: list[int] = []
    train_epoch = Trainer.train_epoch

    def counting(trainer: Trainer, epoch: int) -> dict[str, float]:
        trained.append(epoch)
        return train_epoch(trainer, epoch)

    monkeypatch.setattr(Trainer, "train_epoch", counting)
    run("train_stage_one")
    assert len(trained) == 2
    whole = {path: path.read_bytes() for path in (paths.STAGE_ONE, record("train_stage_one"))}
    for path in whole:
        path.unlink()
    run("train_stage_one")
    assert len(trained) == 2
    assert {path: path.read_bytes() for path in whole} == whole

    digest = hashlib.md5(whole[record("train_stage_one")]).hexdigest()
    outs = [{"path": str(record("train_stage_one")), "hash": "md5", "md5": digest, "size": 1}]
    paths.DVC_LOCK.write_text(yaml.safe_dump({"stages": {"train_stage_one": {"outs": outs}}}))
    run("train_stage_one")
    assert len(trained) == 4
    run("train_stage_two")  # whichever stage is next makes room
    assert not (paths.SCRATCH / "train_stage_one").exists()


def record(stage: str) -> Path:
    return paths.PROVENANCE / f"{stage}.json"


@pytest.mark.parametrize("stage", ["train_stage_two", "evaluate"])
def test_a_missing_checkpoint_is_named(
    stage: str, project: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    project({})
    missing = paths.STAGE_ONE if stage == "train_stage_two" else paths.STAGE_THREE
    missing.unlink()
    with pytest.raises(UserError, match=f"{missing} is missing. `dvc repro` makes it"):
        run(stage)


# ---- dvc.yaml and the code


def outputs(spec: dict[str, Any]) -> list[str]:
    """Paths under outs and metrics, with or without options."""
    entries = spec.get("outs", []) + spec.get("metrics", [])
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def params_of(stage: str) -> list[str]:
    return STAGES[stage].get("params", [])


def test_commands_exist_in_the_documented_order() -> None:
    commands = COMMANDS["Stages"]["pipeline.stages"]
    assert list(STAGES) == [*PREPARATION, *TRAINING[:-1], "dvae_decoder", "analyze"]
    for name, spec in STAGES.items():
        assert spec["cmd"] == f"python -m pipeline {name}"
        assert name in commands
        assert f"pipeline/stages/{name}.py" in spec["deps"]
        assert spec["desc"]


def test_every_output_path_is_tracked() -> None:
    # inputs, and results, are not stages' outputs; logs are tracked by stage; .resume is scratch;
    # how fast a run was is no result
    inputs = {paths.PARAMS, paths.PRESETS, paths.ABLATIONS, paths.DVC, paths.DVC_LOCK}
    untracked = inputs | {paths.RESULTS, paths.RESULT_RUNS, paths.RUN_LOG}
    untracked |= {paths.LOGS, paths.SCRATCH, paths.MAPS, paths.PROVENANCE, paths.RADEVAL}
    untracked |= {paths.SPEED, paths.SPEED_FIGURE}
    known = {value for value in vars(paths).values() if isinstance(value, Path)}
    tracked = [out for spec in STAGES.values() for out in outputs(spec)]
    assert len(tracked) == len(set(tracked))
    logs = {
        f"{paths.LOGS}/stage_{n}/{what}"
        for n in ("one", "two", "three")
        for what in ("plots", "metrics.json", "selected.json")
    }
    records = {f"{paths.PROVENANCE}/{stage}.json" for stage in STAGES}
    assert set(tracked) == {str(path) for path in known - untracked} | logs | records


def test_metrics_that_dvc_lists_are_few_and_named_once(chain: Path) -> None:
    files = [next(iter(entry)) for spec in STAGES.values() for entry in spec.get("metrics", [])]
    names = [name for file in files for name in read_json(chain / file)]
    assert len(names) <= 25
    assert len(set(names)) == len(names)  # DVC puts the file's path before a name that two have
    assert max(map(len, names)) <= 10


def test_every_dependency_exists() -> None:
    made: set[str] = set()
    for stage, spec in STAGES.items():
        for dependency in spec["deps"]:
            assert dependency in made or (ROOT / dependency).exists(), (stage, dependency)
            if dependency.startswith(("data/", "models/", "dvclive/", "evaluation/")):
                assert dependency in made, (stage, dependency)
        made |= set(outputs(spec))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.usefixtures("chain")
def test_every_file_that_a_stage_opens_is_its_dependency(stage: str) -> None:
    """Or its own output. What libraries open without Python (Parquet, safetensors) is not seen."""
    spec = STAGES[stage]
    known = [Path(path) for path in [*spec["deps"], *outputs(spec)]]
    known += [paths.PARAMS, paths.SCRATCH, paths.RUN_LOG, paths.PROVENANCE]
    known += [paths.SPEED, paths.SPEED_FIGURE]  # for people to look at
    known += [paths.LOGS / stage.removeprefix("train_")] if stage in TRAINING[:3] else []
    known += [Path("data/raw")] if stage == "ingest" else []  # the demo, generated and read
    opened = {path for path in OPENED[stage] if not path.name.endswith(".partial")}
    assert paths.PARAMS in opened
    unknown = [p for p in opened if not any(p == k or p.is_relative_to(k) for k in known)]
    assert sorted(unknown) == []


def test_params_of_dvc_yaml_are_those_of_params_yaml() -> None:
    keys = set(known_keys())
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key in keys:
        section = raw
        for part in key.split("."):
            assert part in section, key
            section = section[part]
    for stage in STAGES:
        assert len(params_of(stage)) == len(set(params_of(stage))), stage
        assert set(params_of(stage)) <= keys, stage
    listed = {key for stage in STAGES for key in params_of(stage)}
    assert keys - listed == {"device"}


def test_every_stage_that_computes_depends_on_the_number_of_threads() -> None:
    without = [stage for stage in STAGES if "threads" not in params_of(stage)]
    assert without == ["ingest", "preprocess", "vocabulary"]


def test_lambda3_trains_stage_two_alone() -> None:
    """analyze takes the mask's share out of the loss that it draws."""
    reading = [stage for stage in STAGES if "train.lambda3" in params_of(stage)]
    assert reading == ["train_stage_two", "analyze"]


# What a stage needs of these cannot change what it computes, or is tracked otherwise.
EXEMPT = {
    "pipeline/paths.py",  # dvc.yaml names the same paths
    "uar/core/config.py",  # declares the parameters, which dvc.yaml lists key by key
    "uar/core/params_file.py",  # how params.yaml is read, and what is said of its faults
    "uar/core/errors.py",  # wording of refusals
    "uar/core/files.py",  # how a file is written, not what
    "uar/core/progress.py",  # what is shown of work
    "uar/core/provenance.py",  # whether a stage may run
    "pipeline/provenance.py",  # likewise
    "uar/core/weights.py",  # how weights are written, not what
}
STUDY = "uar/data/study.py"  # beside ingest: names of splits and columns, wording of refusals
# Of stages one and two: validation writes and scores reports with these, and at most chooses
# another epoch.
VALIDATION = ("uar/inference/", "uar/evaluation/")


def exempt(stage: str, path: str) -> bool:
    """Whether dvc.yaml may leave `path` out of a stage's dependencies."""
    in_validation = stage in TRAINING[:2] and path.startswith(VALIDATION)
    return path in EXEMPT or in_validation or (path == STUDY and stage != "ingest")


@cache
def definitions(path: str) -> dict[str, list[ast.AST]]:
    """Top-level statements of a module that bind each name."""
    bound: dict[str, list[ast.AST]] = {}
    for node in ast.parse((ROOT / path).read_text()).body:
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.asname or alias.name.split(".")[0] for alias in node.names]
        for name in names:
            bound.setdefault(name, []).append(node)
    return bound


def module_file(module: str) -> str | None:
    """`uar.data.text` -> `uar/data/text.py`; None for a package of others."""
    if module.split(".")[0] not in ("uar", "pipeline"):
        return None
    path = module.replace(".", "/")
    return f"{path}.py" if (ROOT / f"{path}.py").is_file() else f"{path}/__init__.py"


def used_files(path: str, name: str, seen: set[tuple[str, str]]) -> set[str]:
    """Files behind a module's top-level `name`: what it mentions, and what that mentions.

    By name, not by import statement: `pipeline.inputs` imports the model, yet tokenize, which takes
    only `image_rows` and `open_images` from it, does not use the model.
    """
    if (path, name) in seen:
        return set()
    seen.add((path, name))
    files = {path}
    if path in EXEMPT:  # what an exempt module uses serves the same end
        return files
    for node in definitions(path).get(name, []):
        if isinstance(node, ast.ImportFrom):
            files |= imported_files(node, name, seen)
        elif not isinstance(node, ast.Import):
            for mentioned in ast.walk(node):
                if isinstance(mentioned, ast.Name) and mentioned.id in definitions(path):
                    files |= used_files(path, mentioned.id, seen)
                elif isinstance(mentioned, ast.ImportFrom):  # within a function
                    for alias in mentioned.names:
                        files |= imported_files(mentioned, alias.asname or alias.name, seen)
    return files


def imported_files(node: ast.ImportFrom, name: str, seen: set[tuple[str, str]]) -> set[str]:
    """Files behind the name that an import statement binds."""
    files: set[str] = set()
    source = module_file(node.module or "")
    for alias in node.names:
        if source is None or (alias.asname or alias.name) != name:
            continue
        submodule = module_file(f"{node.module}.{alias.name}")
        if submodule is not None and (ROOT / submodule).is_file():
            files |= {submodule}.union(
                *(used_files(submodule, n, seen) for n in definitions(submodule))
            )
        else:
            files |= used_files(source, alias.name, seen)
    return files


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_name_the_modules_really_used(stage: str) -> None:
    used = used_files(f"pipeline/stages/{stage}.py", stage, set())
    used = {path for path in used if not exempt(stage, path)}
    if "arithmetic" in params_of(stage):  # what the command sets up before it loads the stage
        used |= {"uar/core/arithmetic.py", "uar/core/kernels.py"}
    listed = {d for d in STAGES[stage]["deps"] if d.startswith(("pipeline/", "uar/"))}
    folders = {d for d in listed if (ROOT / d).is_dir()}
    used = {next((f for f in folders if path.startswith(f"{f}/")), path) for path in used}
    assert sorted(used - listed) == [], "missing in dvc.yaml"
    assert sorted(listed - used) == [], "superfluous in dvc.yaml"


def test_configuration_computes_nothing_that_a_stage_could_use() -> None:
    """So that it may be exempt: its classes have fields and refusals, no properties or methods."""
    for node in ast.walk(ast.parse((ROOT / "uar/core/config.py").read_text())):
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    checks = [ast.unparse(decorator) for decorator in inner.decorator_list]
                    assert inner.name.startswith("_"), (node.name, inner.name)
                    assert checks == ["model_validator(mode='after')"] or not checks, inner.name


def test_used_files_follows_names() -> None:
    """So the test above can fail: a known chain of uses, and a known absence."""
    used = used_files("pipeline/stages/tokenize.py", "tokenize", set())
    assert {
        "uar/tokens/cache.py",
        "uar/tokens/dvae.py",
        "uar/data/views.py",
        "pipeline/inputs.py",
    } <= used
    assert "uar/model/uar.py" not in used
    assert "uar/model/refiner.py" in used_files("pipeline/stages/evaluate.py", "evaluate", set())
