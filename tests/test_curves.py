"""What the training curves show, and that they need no network."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from uar.analysis.curves import (
    draw_curves,
    draw_speed,
    read_curves,
    read_speed,
    without_mask,
    write_page,
)


def series(*values: float) -> pd.Series:
    return pd.Series(values, range(1, len(values) + 1))


def test_curves_are_read_by_name_and_epoch(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/loss.tsv").write_text("step\tloss\n1\t2.5\n3\t1.5\n")
    (tmp_path / "learning_rate.tsv").write_text("step\tlearning_rate\n1\t0.1\n")
    curves = read_curves(tmp_path)
    assert list(curves) == ["train/loss"]
    assert curves["train/loss"].to_dict() == {1: 2.5, 3: 1.5}
    assert read_curves(tmp_path / "nothing") == {}


@pytest.mark.parametrize(("reduction", "left"), [("sum", [1, 0.5]), ("mean", [1400.75, 1400.25])])
def test_the_masks_share_is_taken_out_of_the_loss(reduction: str, left: list[float]) -> None:
    curves = {
        "train/loss": series(1401, 1400.5),
        "val/loss": series(901, 900.5),
        "train/mask_sum": series(2800, 2800),
        "train/mask_mean": series(0.5, 0.5),
        "val/mask_sum": series(1800, 1800),
        "val/mask_mean": series(0.5, 0.5),
    }
    shown = without_mask(curves, 0.5, reduction)
    assert shown["train/loss"].tolist() == left
    assert shown["val/loss"].iloc[1] == (0.5 if reduction == "sum" else 900.25)
    assert curves["train/loss"].tolist() == [1401, 1400.5]
    unmasked = {"train/loss": series(3, 2), "val/loss": series(3, 2)}
    assert without_mask(unmasked, 1, reduction).keys() == unmasked.keys()


def test_a_loss_whose_mask_share_is_unknown_is_not_shown() -> None:
    curves = {"train/loss": series(3), "train/mask_sum": series(2), "val/loss": series(3)}
    assert list(without_mask(curves, 1, "sum")) == ["train/loss", "train/mask_sum"]


def test_train_and_validation_share_a_colour_and_differ_in_dashes() -> None:
    figure = draw_curves(
        {"stage one": {}, "stage two": {"train/loss": series(3, 2), "val/loss": series(4, 3)}}
    )
    assert [axes.get_title() for axes in figure.axes] == [
        "stage two: loss", "stage two: loss terms", "stage two: reports"
    ]  # fmt: skip
    train, validation = figure.axes[0].lines
    assert train.get_color() == validation.get_color()
    assert (train.get_linestyle(), validation.get_linestyle()) == ("--", "-")
    assert list(validation.get_ydata()) == [4, 3]
    (key,) = figure.legends
    styles = {
        text.get_text(): line.get_linestyle()
        for text, line in zip(key.texts, key.get_lines(), strict=True)
    }
    assert styles == {"training": "--", "validation": "-"}
    reports = figure.axes[2].get_legend()
    assert reports is not None
    assert [text.get_text() for text in reports.texts] == ["BLEU-4", "ROUGE-L", "CIDEr"]


def rewarded(f1: float) -> dict[str, pd.Series]:
    """Of an epoch of self-critical training."""
    names = ("CIDEr", "BLEU-4", "shuffled_CIDEr", "F1", "precision", "distinct_share", "reward")
    curves = {f"val/{name}": pd.Series([0.3, 0.4], [0, 1]) for name in names}
    curves["val/F1"] = pd.Series([0.226, f1], [0, 1])
    curves["val/distinct_reports"] = pd.Series([111.0, 111.0], [0, 1])
    return curves | {"train/reward": pd.Series([0.5], [1])}


def test_rewards_are_drawn_beside_what_may_be_lost_by_them() -> None:
    figure = draw_curves({"stage two": {"val/loss": series(4, 3)}, "stage three": rewarded(0.3)})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[3:] == ["stage three: reward", "stage three: reports", "stage three: findings"]
    reports = figure.axes[4].get_legend()
    assert reports is not None
    assert "shuffled" in [text.get_text() for text in reports.texts]


@pytest.mark.parametrize("f1", [0.053, 0.226])
def test_the_page_says_why_a_model_is_not_used(tmp_path: Path, f1: float) -> None:
    stages = {"stage three": rewarded(f1)}
    page = tmp_path / "curves.html"
    write_page(draw_curves(stages), stages, run="The demo.", path=page)
    said = "Stage three lowered F1 from 0.226 to 0.053 (epoch 1, where CIDEr is 0.400 instead of"
    assert (said in page.read_text()) == (f1 < 0.1)


def test_a_page_of_a_model_that_was_not_trained(tmp_path: Path) -> None:
    nothing = {"stage one": {}, "stage two": {}}
    page = tmp_path / "curves.html"
    write_page(draw_curves(nothing), nothing, run="The demo.", path=page)
    assert page.read_text().count("<tr>") == 1


def test_the_same_curves_are_the_same_bytes(tmp_path: Path) -> None:
    stages = {"stage one": {"train/loss": series(3, 2), "val/loss": series(4, 3)}}
    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    for page in pages:
        write_page(draw_curves(stages), stages, run="The demo.", path=page)
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_speed_is_beside_the_page_and_not_in_it(tmp_path: Path) -> None:
    (tmp_path / "studies_per_second.tsv").write_text("step\tstudies_per_second\n1\t20\n2\t22\n")
    (tmp_path / "host_memory.tsv").write_text("step\thost_memory\n0\t1.5\n1\t1.6\n")
    (tmp_path / "seconds.tsv").write_text("step\tseconds\n0\t60\n")
    speed = read_speed(tmp_path)
    assert list(speed) == ["studies_per_second", "host_memory"]
    assert read_speed(tmp_path / "nothing") == {}
    rate, memory = draw_speed({"stage one": speed}).axes
    assert rate.get_title() == "stage one:\nstudies per second"
    assert list(rate.lines[0].get_ydata()) == [20, 22]
    assert list(memory.lines[0].get_xdata()) == [0, 1]
    page = tmp_path / "curves.html"
    write_page(draw_curves({}), {}, run="The demo.", path=page)
    assert '<object data="speed.svg"' in page.read_text()


def test_the_page_says_whose_run_it_is_and_how_many_steps_were_clipped(tmp_path: Path) -> None:
    stages = {"stage one": {"train/clipped": series(1, 0.5), "val/image_gain": series(1, -2.5)}}
    page = tmp_path / "curves.html"
    write_page(draw_curves(stages), stages, run="Data set demo, train.seed 7.", path=page)
    text = page.read_text()
    assert "Data set demo, train.seed 7." in text
    assert "In stage one, the gradient of 75.0 % of the steps exceeded" in text
    assert "<td>validation: image gain, nats per report</td><td>2</td><td>−2.5</td>" in text
    assert 'name="viewport"' in text
