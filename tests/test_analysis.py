"""What the figures show, by hand on small cases and against the model itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import uar.analysis
from pipeline.stages.analyze import FIGURES
from tests.conftest import ROOT
from uar.analysis import alignment
from uar.analysis.alignment import alignment_metrics, draw_alignment, min_max
from uar.analysis.basis import gram, gram_metrics
from uar.analysis.drawing import signed, wrap
from uar.analysis.grounding import (
    coverage,
    grounding_metrics,
    grounding_summary,
    grounding_table,
    head_word,
    interval_over_studies,
    mentions,
    score_mention,
)
from uar.analysis.heatmap import MOST_OPAQUE
from uar.analysis.reconstruction import film_table, finding_table, kept_share
from uar.analysis.reliability import draw_reliability, reliability_table
from uar.analysis.retrieval import queries, retrieval_metrics, true_ranks
from uar.analysis.run import cosine_matrix
from uar.analysis.saving import Caption, save_figure
from uar.analysis.word_heatmaps import (
    ALL_WORDS,
    ReportAttention,
    attention_table,
    draw_word_heatmaps,
    named_findings,
    shown_words,
    studies_with_common_findings,
)
from uar.core.special_words import BOS, EOS, PAD
from uar.data.demo import FINDINGS as DEMO_FINDINGS
from uar.data.study import BOX_COLUMNS
from uar.evaluation.calibration import wilson
from uar.evaluation.published import published_alignment_scores
from uar.inference.word_attention import attention_weights, recorded_attention
from uar.model.aligner import make_basis
from uar.model.attention import MultiHeadAttention
from uar.model.uar import UAR

MAKER = "def make_figures("

# ---- reliability


def head_of(*bins: tuple[float, int, float, float]) -> dict[str, Any]:
    """`findings_head` of evaluation/details.json, with the same bins everywhere."""
    names = ("from", "count", "predicted", "observed")
    rows = [dict(zip(names, row, strict=True)) for row in bins]
    of_kind = {"ece": 0.0123, "brier": 0.0456, "bins": rows}
    return {split: {"as_trained": of_kind, "calibrated": of_kind} for split in ("val", "test")}


BINS = [(0.0, 400, 0.02, 0.0), (0.5, 8, 0.55, 0.625), (0.9, 3, 0.96, 1.0)]


def test_reliability_table_by_hand() -> None:
    table = reliability_table(head_of(*BINS))
    assert list(zip(table["split"], table["probabilities"], strict=True))[::3] == [
        ("val", "as_trained"), ("val", "calibrated"),
        ("test", "as_trained"), ("test", "calibrated"),
    ]  # fmt: skip
    middle = table.iloc[1]
    assert (middle["count"], middle["observed"]) == (8, 0.625)
    assert (middle["low"], middle["high"]) == pytest.approx(wilson(5, 8))
    assert (table["low"] <= table["observed"]).all()
    assert (table["observed"] <= table["high"]).all()


def test_reliability_shows_each_split_with_its_scores(tmp_path: Path) -> None:
    figure = draw_reliability(head_of(*BINS))
    assert [axes.get_title() for axes in figure.axes] == ["validation", "test"]
    legend = figure.axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "as trained: ECE 0.012, Brier 0.0456",
        "calibrated: ECE 0.012, Brier 0.0456",
    ]
    save_figure(figure, Caption("A", "b"), png=tmp_path / "a.png", pdf=tmp_path / "a.pdf")
    assert Image.open(tmp_path / "a.png").width > 1000


# ---- Figure 3


def test_ranks_count_duplicates_of_the_true_text_as_hits() -> None:
    cosine = np.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.4], [0.8, 0.1, 0.7]])
    alone = np.eye(3, dtype=bool)
    assert true_ranks(cosine, alone).tolist() == [3, 3, 2]
    text = np.array([0, 1, 0])  # studies 0 and 2 have the same report
    same = text[:, None] == text
    assert true_ranks(cosine, same).tolist() == [2, 3, 1]
    assert true_ranks(cosine.T, same).tolist() == [1, 2, 1]


def test_a_model_that_tells_nothing_apart_ranks_last() -> None:
    ranks = true_ranks(np.ones((20, 20)), np.eye(20, dtype=bool))
    assert ranks.tolist() == [20] * 20
    assert retrieval_metrics(ranks) == {"R@1": 0, "R@5": 0, "R@10": 0, "median_rank": 20}


def test_retrieval_metrics_by_hand() -> None:
    metrics = retrieval_metrics(np.array([1, 1, 4, 10, 11, 50]))
    assert metrics == {"R@1": 2 / 6, "R@5": 3 / 6, "R@10": 4 / 6, "median_rank": 7.0}


def test_cosine_matrix_is_images_by_reports() -> None:
    images, reports = np.array([[2.0, 0], [0, 3]]), np.array([[1.0, 0], [1, 1]])
    expected = [[1, 0.5**0.5], [0, 0.5**0.5]]
    np.testing.assert_allclose(cosine_matrix(images, reports), expected)


def test_queries_name_the_nearest_in_order() -> None:
    cosine = np.array([[0.1, 0.9, 0.5, 0.2]] * 4)
    row = queries(cosine, np.array([4, 1, 2, 3]), [2])[0]
    assert (row.study, row.rank, row.cosine, row.top) == (2, 2, 0.5, [1, 2, 3])


# ---- Figure 4


def test_alignment_score_of_a_known_matrix() -> None:
    cosine = np.array([[-0.2, 0.3], [0.8, 0.31]])  # 0.3 is the middle: not above it
    assert min_max(cosine).min() == 0
    assert min_max(cosine).max() == 1
    metrics = alignment_metrics(cosine)
    assert metrics["score"] == 0.5
    assert metrics["score_true_pairs"] == 0.5
    assert metrics["mean_cosine"] == pytest.approx(0.3025)
    shifted = alignment_metrics(cosine * 0.1 + 0.5)  # min-max forgets scale and place
    assert shifted["score"] == metrics["score"]
    assert alignment_metrics(np.full((3, 3), 0.9))["score"] == 0


def test_published_alignment_scores_ship_with_the_package() -> None:
    assert published_alignment_scores() == {"base": 0.36, "a": 0.49, "e": 0.68}


# ---- Figure 5


def test_gram_of_an_orthonormal_basis_is_the_identity() -> None:
    torch.manual_seed(0)
    matrix = gram(make_basis("orthogonal", 64, 16) * 7)
    np.testing.assert_allclose(matrix, np.eye(16), atol=1e-6)
    assert gram_metrics(matrix)["max_abs_cosine"] < 1e-6
    normal = gram(make_basis("normal", 64, 16))
    assert gram_metrics(normal)["mean_abs_cosine"] > 0.05


def test_gram_metrics_leave_the_diagonal_out() -> None:
    metrics = gram_metrics(np.array([[1, -0.3], [0.1, 1]]))
    assert metrics == {"mean_abs_cosine": pytest.approx(0.2), "max_abs_cosine": 0.3}


# ---- Figure 6


def test_film_table_by_hand() -> None:
    raw = np.zeros((2, 2, 2), dtype=np.float32)
    again = raw.copy()
    again[0] = 0.1
    again[1, 0, 0] = -0.4
    one, other = film_table(raw, again, ["a", "b"])
    assert (one["film"], other["film"]) == ("a", "b")
    assert one["psnr_db"] == pytest.approx(20, abs=1e-4)
    assert other["mse"] == pytest.approx(0.04)
    assert other["max_abs"] == pytest.approx(0.4)


def test_kept_share_of_a_finding() -> None:
    film = np.zeros((4, 4))
    film[:2, 2:] = [[0, 1], [1, 0]]
    box = (0.5, 0.0, 1.0, 0.5)
    flat = np.full((4, 4), 0.5)
    assert kept_share(film, film, box) == 1
    assert kept_share(film, flat, box) == 0
    assert kept_share(film, (film + flat) / 2, box) == pytest.approx(0.75)
    assert kept_share(film, 1 - film, box) == 0  # worse than gray
    assert kept_share(film, film, (0.0, 0.5, 0.5, 1.0)) == 0  # nothing there to keep
    table = finding_table(film[None], film[None], names=["a, frontal"], boxes=[{"nodule": box}])
    assert table.to_dict("records") == [{"film": "a, frontal", "finding": "nodule", "kept": 1.0}]


# ---- Figure 7

REPORTS = torch.tensor([[BOS, 4, 5, 6, EOS, PAD, PAD, PAD], [BOS, 7, 3, 9, 8, 10, 4, EOS]])
PRESENT = torch.tensor([[True, False], [True, True]])


def test_attention_weights_times_values_are_what_attention_gives() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 4).double()
    x, memory = (torch.randn(2, length, 16, dtype=torch.double) for length in (5, 7))
    bias = torch.randn(2, 1, 5, 7, dtype=torch.double)
    keys, values = attention.keys_and_values(memory)
    for each in (bias, None):
        weights = attention_weights(attention, x, keys, each)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        attended = attention.output((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(attended, attention(x, (keys, values), bias=each))


@pytest.mark.parametrize(
    "switches", [{"tir": "none"}, {"tir": "static"}, {"tir": "predicted"}], ids=str
)
def test_recorded_attention_is_the_models_own(
    make_model: Callable[..., UAR],
    make_visual: Callable[..., torch.Tensor],
    switches: dict[str, Any],
) -> None:
    """A model whose values are the visual positions' unit vectors shows its weights itself."""
    model = make_model(2, d_model=16, heads=1, **switches)
    attention = model.decoder.layers[0].visual_attention
    with torch.no_grad():
        attention.output.weight.copy_(torch.eye(16))
    shown = []
    attention.register_forward_hook(lambda module, inputs, output: shown.append(output))
    attention.keys_and_values = lambda memory: (  # type: ignore[method-assign]
        attention.key(memory).unsqueeze(1),
        torch.eye(8, 16).expand(len(memory), 1, 8, 16),
    )
    with torch.no_grad(), recorded_attention(model) as layers:
        model(make_visual(model, 2), REPORTS, PRESENT)
    assert [tuple(layer.shape) for layer in layers] == [(2, 7, 8)] * 2
    torch.testing.assert_close(layers[0], shown[0][..., :8])
    for layer in layers:
        torch.testing.assert_close(layer.sum(-1), torch.ones(2, 7))
        assert (layer[0, :, 4:] == 0).all()  # the view that study 0 lacks
        assert (layer[1] > 0).any(0).all()


def test_recording_ends_with_its_block(
    make_model: Callable[..., UAR], make_visual: Callable[..., torch.Tensor]
) -> None:
    model = make_model()
    visual = make_visual(model, 2)
    with torch.no_grad(), recorded_attention(model) as layers:
        model(visual, REPORTS)
    assert len(layers) == 2
    with torch.no_grad():
        model(visual, REPORTS)
    assert len(layers) == 2


def test_findings_count_where_no_word_denies_them() -> None:
    report = "no effusion or pneumothorax . a small effusion at the left heart border ."
    words = report.split()
    assert named_findings([words]) == [
        [(1, "Pleural Effusion", False), (3, "Pneumothorax", False), (7, "Pleural Effusion", True)]
    ]
    assert [words[i] for i in shown_words(words)] == ["pneumothorax", "effusion", "heart"]


@pytest.mark.parametrize(
    ("report", "asserted", "others"),
    [
        ("the heart is enlarged .", ["enlarged"], []),
        ("there is mild cardiomegaly . no edema .", ["cardiomegaly"], ["edema"]),
        ("the heart is normal in size .", [], ["normal"]),
        ("the lungs are clear .", [], ["clear"]),
        ("pneumothorax is no longer seen .", [], ["pneumothorax"]),
        ("no change in the left effusion .", ["effusion"], []),
        ("effusion has not resolved .", ["effusion"], []),
        ("possible pneumonia .", [], ["pneumonia"]),
        ("pneumonia is not excluded .", [], ["pneumonia"]),
        ("no pneumothorax and the heart is enlarged .", ["enlarged"], ["pneumothorax"]),
        ("hyperexpanded lungs . hiatal hernia .", ["hyperexpanded", "hernia"], []),
        ("no hernia or granuloma .", [], ["hernia", "granuloma"]),
        ("degenerative changes of the spine .", ["degenerative"], []),
        ("pacemaker with two leads .", ["pacemaker", "leads"], []),
        ("pleural fluid . air-space disease .", ["fluid", "disease"], []),
        ("collapsed vertebral body . bronchial tubes .", [], []),
        ("nothing to say .", [], []),
        ("", [], []),
    ],
)
def test_findings_are_those_of_the_clinical_labeller(
    report: str, asserted: list[str], others: list[str]
) -> None:
    words = report.split()
    (named,) = named_findings([words])
    assert [words[finding.word] for finding in named if finding.asserted] == asserted
    assert [words[finding.word] for finding in named if not finding.asserted] == others


def test_the_analysis_holds_no_list_of_phrases() -> None:
    """One list: what the labeller and Figure 7 look for is written in `phrases` alone."""
    for path in (ROOT / "uar/analysis").glob("*.py"):
        words = set(re.findall("[a-z]+", path.read_text().lower()))
        assert not words & {"effusion", "cardiomegaly", "pneumothorax", "atelectasis"}, path


@pytest.mark.parametrize("name", DEMO_FINDINGS)
def test_every_finding_of_the_demo_is_named(name: str) -> None:
    words = f"there is a {name} .".split()
    (named,) = named_findings([words])
    assert head_word(name) in {words[finding.word] for finding in named if finding.asserted}


def test_studies_with_common_findings_assert_the_most_in_common() -> None:
    reports = [
        ("no edema .", "edema ."),
        ("edema . nodule .", "nodule . edema . hernia ."),
        ("edema .", "edema . nodule ."),
        ("hernia .", "nodule ."),
        ("enlarged heart .", "no nodule . cardiomegaly ."),  # the same finding in other words
        ("no edema .", "edema ."),
    ]
    assert studies_with_common_findings(reports, 3) == [1, 2, 4]
    assert studies_with_common_findings(reports, 9) == [1, 2, 4, 0, 3, 5]


def test_maps_are_multiples_of_uniform() -> None:
    attention = np.zeros((2, 8))
    attention[1, 5] = 1
    maps = ReportAttention(["a", "b"], attention).maps(1, views=2)
    assert maps.shape == (2, 2, 2)
    assert maps[1, 0, 1] == 8
    assert maps.sum() == 8


def test_attention_table_has_a_row_for_each_cell_of_shown_words() -> None:
    attention = np.full((4, 8), 1 / 8)
    attention[2] = [0.3, 0.1, 0, 0, 0.2, 0.2, 0.1, 0.1]
    table = attention_table(
        {"with TIR": ReportAttention(["the", "large", "effusion"], attention)}, views=2
    )
    assert table["word"].tolist() == ["effusion"] * 8
    assert table[["view", "row", "column"]].values[5].tolist() == [1, 0, 1]
    np.testing.assert_allclose(table["times_uniform"], attention[2] * 8)


@pytest.mark.parametrize("words", [[], ["well"], ["the", "heart"]], ids=len)
def test_figure_7_of_a_report_with_few_words_to_show(tmp_path: Path, words: list[str]) -> None:
    attention = np.full((3, 8), 1 / 8)
    attention[0] = np.eye(8)[6]
    report = ReportAttention(words, attention)
    maps = report.shown_maps(2)
    if words == ["the", "heart"]:
        assert list(maps) == ["heart"]
    else:
        assert list(maps) == [ALL_WORDS]
        assert maps[ALL_WORDS][1, 1, 0] == 8  # the row of the only, or of no word
    boxes = pd.DataFrame(columns=BOX_COLUMNS)
    films, views = np.zeros((2, 4, 4)), ["frontal", "lateral"]
    names = ["with TIR"] if words else ["without TIR", "with TIR"]
    models = dict.fromkeys(names, report)
    png, pdf = tmp_path / "7.png", tmp_path / "7.pdf"
    figure = draw_word_heatmaps(models, films=films, views=views, reference="$x_ .", boxes=boxes)
    save_figure(figure, Caption("A title", "What to see in $x_."), png=png, pdf=pdf)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")


def test_a_heatmaps_scale_has_ticks_that_double() -> None:
    attention = np.zeros((1, 8))
    attention[0, 3] = 0.55  # 4.4 times uniform
    report = ReportAttention(["heart"], attention)
    boxes = pd.DataFrame(columns=BOX_COLUMNS)
    figure = draw_word_heatmaps(
        {"TIR": report}, films=np.zeros((2, 4, 4)), views=["a", "b"], reference="x", boxes=boxes
    )
    (bar,) = (axes for axes in figure.axes if "uniform" in axes.get_ylabel())
    assert bar.get_yticks().tolist() == [0, 0.5, 1, 2, 4]


def test_figure_7_leaves_the_film_clear_where_attention_is_uniform() -> None:
    report = ReportAttention(["heart"], np.array([[0.125] * 6 + [0.25, 0.0]]))
    figure = draw_word_heatmaps(
        {"TIR": report},
        films=np.zeros((2, 4, 4)),
        views=["a", "b"],
        reference="x",
        boxes=pd.DataFrame(columns=BOX_COLUMNS),
    )
    drawn = [image.get_alpha() for axes in figure.axes for image in axes.images]
    heat = np.stack([alpha for alpha in drawn if alpha is not None])  # none of the film itself
    assert heat.ravel().tolist() == [0, 0, 0, 0, 0, 0, MOST_OPAQUE, 0]


def test_every_figure_is_registered() -> None:
    folder = Path(uar.analysis.__path__[0])
    makers = {f"uar.analysis.{p.stem}" for p in folder.glob("*.py") if MAKER in p.read_text()}
    assert makers == {make_figures.__module__ for make_figures in FIGURES}
    assert len(FIGURES) == len(makers)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"stage one": 0.164, "stage two": 0.158}, "16 % in stage one, 16 % in stage two. Similar"),
        ({"stage one": 0.56, "stage two": 0.53}, "in stage two. It falls. Similar"),
        ({"stage one": 0.53, "stage two": 0.56}, "in stage two. It rises. Similar"),
        ({"stage one": 0.53}, "53 % in stage one. Similar"),
    ],
)
def test_figure_4_says_what_its_numbers_show(scores: dict[str, float], said: str) -> None:
    assert said in alignment.caption(scores).text


def test_a_figure_has_its_caption_on_the_screen_and_not_in_print(tmp_path: Path) -> None:
    def saved(text: str) -> tuple[bytes, tuple[int, int]]:
        figure = draw_alignment({"one": np.eye(2)}, ["a .", "b ."], {})
        png, pdf = tmp_path / "a.png", tmp_path / "a.pdf"
        save_figure(figure, Caption("Alignment", text), png=png, pdf=pdf)
        with Image.open(png) as image:
            return pdf.read_bytes(), image.size

    (print_short, short), (print_long, long) = saved("Bright."), saved("Bright blocks. " * 40)
    assert print_short == print_long
    assert (long[0], long[1] > short[1] > 0) == (short[0], True)


def test_a_negative_number_has_a_minus_sign() -> None:
    assert (signed(-0.567, 2), signed(0.5, 1)) == ("−0.57", "0.5")


def test_no_line_of_a_report_begins_with_a_full_stop() -> None:
    text = "the heart is big . no effusion . clear ."
    lines = wrap(text, 16).split("\n")
    assert [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines] == [
        "the heart is", "big . no", "effusion .", "clear ."
    ]  # fmt: skip
    assert max(map(len, lines)) <= 16
    assert wrap(text, 16, lines=1) == "the heart is …"


# ---- grounding


def test_coverage_is_the_boxs_share_of_each_cell() -> None:
    cells = coverage((0.25, 0.0, 1.0, 0.5), side=2)
    np.testing.assert_allclose(cells, [[0.5, 1.0], [0, 0]])
    assert coverage((0.1, 0.2, 0.4, 0.9), 7).mean() == pytest.approx(0.3 * 0.7)


def test_pointing_game_on_a_made_up_map() -> None:
    box = (0.5, 0.0, 1.0, 0.5)  # the top right quarter
    attention = np.array([[0.1, 0.6], [0.1, 0.2]])
    assert score_mention(attention, box) == {
        "pointing": 1.0,
        "pointing_chance": 0.25,
        "inside": pytest.approx(0.6),
        "inside_chance": pytest.approx(0.25),
    }
    missed = score_mention(attention.T, box)
    assert missed["pointing"] == 0
    assert missed["inside"] == pytest.approx(0.1)


def test_mentions_and_their_scores() -> None:
    boxes = pd.DataFrame(
        [
            ("a", 0, "pleural effusion", 0.0, 0.0, 0.5, 0.5),
            ("a", 1, "pleural effusion", 0.5, 0.5, 1.0, 1.0),
            ("b", 0, "nodule", 0.0, 0.0, 1.0, 1.0),  # not in its report
            ("c", 0, "nodule", 0.0, 0.0, 1.0, 0.5),
            ("c", 1, "nodule", 0.0, 0.0, 1.0, 1.0),  # a view that the study lacks
            ("z", 0, "nodule", 0.0, 0.0, 1.0, 1.0),  # another split's
        ],
        columns=BOX_COLUMNS,
    )
    reports = [["an", "effusion", "."], ["clear", "."], ["nodule", "."]]
    present = np.array([[True, True], [True, True], [True, False]])
    found = mentions(boxes, ["a", "b", "c"], reports=reports, present=present)
    assert [(m.study, m.position, m.view) for m in found] == [(0, 1, 0), (0, 1, 1), (2, 0, 0)]

    attention = np.full((3, 2, 8), 1 / 8)
    attention[0, 1] = [0.4, 0, 0, 0.1, 0.5, 0, 0, 0]  # right on film 0, wrong on film 1
    table = grounding_table(found, attention, study_ids=["a", "b", "c"], views=2)
    assert table["pointing"].tolist() == [1, 0, 1]
    np.testing.assert_allclose(table["inside"], [0.8, 0, 0.5])
    metrics = grounding_metrics({"with_TIR": table})
    assert metrics["mentions"] == 3
    assert metrics["chance"]["inside"] == pytest.approx(1 / 3)
    assert metrics["with_TIR"]["pointing"] == pytest.approx(2 / 3)
    assert "difference" not in metrics


def test_two_models_are_compared_mention_by_mention() -> None:
    values = np.linspace(0.1, 0.8, 40)
    without = pd.DataFrame(
        {
            "study_id": [str(i // 2) for i in range(40)],
            "pointing": [0.0, 1.0] * 20,
            "pointing_chance": 0.2,
            "inside": values,
            "inside_chance": 0.1,
        }
    )
    better = without.assign(inside=values + 0.05, pointing=1.0)
    found = grounding_metrics({"without_TIR": without, "with_TIR": better})["difference"]
    assert found["inside"] == pytest.approx({"mean": 0.05, "low": 0.05, "high": 0.05})
    low, high = interval_over_studies(values, without["study_id"].tolist())
    assert high - low > 0.1  # unpaired, the same gain would drown
    assert found["pointing"]["mean"] == 0.5


def test_interval_of_grounding_draws_studies_not_mentions() -> None:
    values = np.array([0.0] * 10 + [1.0] * 10)
    many = interval_over_studies(values, [str(i) for i in range(20)])
    two = interval_over_studies(values, ["a"] * 10 + ["b"] * 10)
    assert two == (0, 1)  # two studies say little, however many mentions they hold
    assert 0.2 < many[0] < 0.4
    assert 0.6 < many[1] < 0.8
    assert interval_over_studies(np.full(5, 0.3), list("abcde")) == pytest.approx((0.3, 0.3))


def test_grounding_summary_by_finding_and_for_all() -> None:
    table = pd.DataFrame(
        {
            "study_id": ["a", "b", "b"],
            "finding": ["nodule", "nodule", "edema"],
            "pointing": [1.0, 0.0, 1.0],
            "pointing_chance": [0.1, 0.1, 0.4],
            "inside": [0.5, 0.5, 0.2],
            "inside_chance": [0.1, 0.2, 0.3],
        }
    )
    summary = grounding_summary({"with TIR": table}).query("measure == 'pointing'")
    assert summary["finding"].tolist() == ["edema", "nodule", "all"]
    assert summary["mentions"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(summary["mean"], [1, 0.5, 2 / 3])
    np.testing.assert_allclose(summary["chance"], [0.4, 0.1, 0.2])
    assert (summary["low"] <= summary["mean"]).all()
    edema = summary.iloc[0]  # one of one: not certain
    np.testing.assert_allclose([edema["low"], edema["high"]], [0.2065, 1], atol=1e-4)
    assert (summary["high"] >= summary["mean"]).all()
