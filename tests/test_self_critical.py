"""Stage three: what reports earn, whose gradient it is, and when its model is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider

from tests.conftest import labeller, uncounted
from tests.test_training import (
    GREEDY,
    REPORTS,
    VOCABULARY,
    Killed,
    Logged,
    Scripted,
    assert_same_bits,
    cpu,
    differ,
    make_studies,
    small_model,
    taught,
    tiny,
    to_log,
)
from uar.core.config import Params, StageParams, StageThreeParams
from uar.core.provenance import Scratch
from uar.core.special_words import BOS, EOS, PAD
from uar.data.batches import Batch, Studies, TokenSource
from uar.evaluation.clinical.labels import FINDINGS, Label
from uar.evaluation.safeguard import lost, refusal
from uar.inference.decoding import Generated, random_draws, sample
from uar.model.uar import UAR, ModelSizes
from uar.training.objective import Objective
from uar.training.reward import Reward
from uar.training.self_critical import (
    Critic,
    Drawn,
    PolicyStep,
    advantages,
    freeze_untouched,
    log_probabilities,
    rows_of,
)
from uar.training.stage import Trained, TrainingConfig, TrainingData, train_stage
from uar.training.validation import Validation

MakeModel = Callable[..., UAR]
MakeVisual = Callable[..., torch.Tensor]


@pytest.fixture(autouse=True)
def rules_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uar.evaluation.clinical.sentences.Labeller", labeller)
    monkeypatch.setattr("uar.training.speed.flops_per_study", uncounted)
    monkeypatch.setattr("uar.training.speed.measured_peak", uncounted)


def settings(params: Params, **changes: Any) -> StageThreeParams:
    """Of stage three, with these values; of the reward, round ones."""
    known = {"samples": 4, "temperature": 1.0, "cider": 1.0, "bleu": 4.0, "contrast": 1.0}
    known |= {"finding": 1.0, "wrong_finding": 0.5, "anchor": 0.0, "epochs": 1}
    return params.train.stage_three.model_copy(update=known | changes)


def findings_of(texts: list[str]) -> np.ndarray:
    """What the labeller finds asserted in whole texts, `(N, 13)` bool."""
    return labeller().label(texts)[:, : len(FINDINGS)] == Label.POSITIVE


def with_findings(copies: int = 1) -> Studies:
    """`make_studies`, without crops: an epoch differs from the others only by what is drawn."""
    studies = make_studies(np.tile(findings_of(REPORTS), (copies, 1)), copies)
    studies.visual = TokenSource(studies.visual.tokens[:, :1])  # type: ignore[attr-defined]
    return studies


# ---- what a report earns


def test_the_reward_is_that_of_a_plain_computation(tiny_params: Params) -> None:
    params = settings(tiny_params, cider=0.7, bleu=3.0, contrast=0.6, finding=2.0)
    training = [*REPORTS, "the bones are intact .", "a nodule in the left lung ."]
    references = [REPORTS[i] for i in (1, 0, 2, 6)]
    texts = [
        "the heart is enlarged .",
        "there is a left effusion . the heart is enlarged .",
        "the lungs are clear .",
        "",
        "there is a nodule in the lung .",
    ]
    own, true = [0, 2, 1, 1, 3], findings_of([references[i] for i in (0, 2, 1, 1, 3)])
    found = Reward(params, training)(texts, own, references, true)

    def overlap(text: str, reference: str) -> float:
        """CIDEr with the training reports as the corpus, whose frequencies count."""
        corpus = {i: [other] for i, other in enumerate([*training, reference])}
        del corpus[training.index(reference)]  # of two copies the last is scored
        cider = Cider().compute_score(corpus, {i: [text] for i in corpus})[1][-1]
        bleu = Bleu(4).compute_score({0: [reference]}, {0: [text]}, verbose=0)[0][3]
        return params.cider * cider + params.bleu * bleu

    for i, text in enumerate(texts):
        others = [overlap(text, other) for j, other in enumerate(references) if j != own[i]]
        said = findings_of([text])[0]
        findings = 2.0 * (said & true[i]).sum() - 0.5 * (said & ~true[i]).sum()
        mine = overlap(text, references[own[i]])
        assert found["overlap"][i] == pytest.approx(mine, abs=1e-6)
        assert found["overlap_of_others"][i] == pytest.approx(np.mean(others), abs=1e-6)
        assert found["findings_reward"][i] == pytest.approx(findings)
        expected = mine - 0.6 * np.mean(others) + findings
        assert found["reward"][i] == pytest.approx(expected, abs=1e-6)
    assert found["findings_reward"][0] == 2  # right
    assert found["findings_reward"][1] == 2 - 0.5  # one right, one wrong


def test_a_report_written_for_every_study_earns_nothing(tiny_params: Params) -> None:
    """However like the references it is; one that tells its study from others earns something."""
    reward = Reward(settings(tiny_params, finding=0.0, wrong_finding=0.0), REPORTS)
    everyone, nothing = range(len(REPORTS)), np.zeros((len(REPORTS), len(FINDINGS)), bool)
    for text in (*REPORTS, "the heart is", ""):
        found = reward([text] * len(REPORTS), everyone, REPORTS, nothing)
        assert found["reward"].sum() == pytest.approx(0, abs=1e-9)
    generic = reward([REPORTS[0]] * len(REPORTS), everyone, REPORTS, nothing)
    assert generic["overlap"].sum() > 10  # which is what it would earn without the contrast
    assert reward(REPORTS, everyone, REPORTS, nothing)["reward"].min() > 1


def test_a_study_alone_is_compared_with_no_others(tiny_params: Params) -> None:
    nothing = np.zeros((1, len(FINDINGS)), bool)
    found = Reward(settings(tiny_params), REPORTS)(REPORTS[6:7], [0], REPORTS[6:7], nothing)
    assert found["overlap_of_others"][0] == 0
    assert found["overlap"][0] > 1


# ---- the gradient


def test_the_baseline_is_the_mean_of_the_others() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    expected = torch.tensor([[1.0 - 4.0, 2.0 - 3.5, 6.0 - 1.5], [-1.5, -1.5, 3.0]])
    torch.testing.assert_close(advantages(rewards), expected)
    torch.testing.assert_close(advantages(rewards + torch.tensor([[5.0], [-7.0]])), expected)


WORDS, LENGTH = 6, 3  # two words and the special ones, so that every report can be listed


@pytest.fixture
def small(tiny_params: Params) -> UAR:
    """A model that writes reports of up to three words, some likelier than others."""
    torch.manual_seed(0)
    sizes = ModelSizes(vocabulary=WORDS, codebook=12, visual_length=8, max_length=LENGTH)
    model = UAR(tiny_params.model, sizes)
    with torch.no_grad():
        model.head.weight.mul_(3)
    return model.eval()


def every_report() -> list[Generated]:
    """All that a model with these sizes can write: no PAD, no BOS, nothing after the end."""
    words = [word for word in range(WORDS) if word not in (PAD, BOS, EOS)]
    shorter = [of for length in range(LENGTH) for of in product(words, repeat=length)]
    return [Generated(list(ids), 0.0) for ids in [*shorter, *product(words, repeat=LENGTH)]]


def likely(model: UAR, visual: torch.Tensor, rows: torch.Tensor, temperature: float) -> Any:
    """log pi of each row for the one study."""
    return log_probabilities(model(visual, rows).logits, rows[:, 1:], temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_reports_are_as_likely_as_they_are_drawn(small: UAR, temperature: float) -> None:
    visual = torch.arange(8).view(1, 2, 4)
    reports = every_report()
    with torch.no_grad():
        probabilities = likely(small, visual, rows_of(reports, LENGTH), temperature).exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    count = 20_000
    [drawn] = sample(small, visual, random_draws(1, count, LENGTH), temperature)
    places = {tuple(report.ids): i for i, report in enumerate(reports)}
    counts = np.bincount([places[tuple(one.ids)] for one in drawn], minlength=len(reports))
    expected = count * probabilities.numpy()
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 1).all()
    assert probabilities.max() > 4 * probabilities.min()


@pytest.mark.parametrize(("temperature", "anchor"), [(1.0, 0.0), (1.5, 0.3)])
def test_the_gradient_is_that_of_the_expected_reward(
    small: UAR, tiny_params: Params, temperature: float, anchor: float
) -> None:
    """Over every pair of reports of a study, each as often as it is drawn."""
    params = settings(tiny_params, samples=2, temperature=temperature, anchor=anchor)
    step = PolicyStep(small, params, fabric=cpu(), precision="float32", compiled=False)
    with torch.no_grad():  # the model has moved since it was stage two's
        for number, parameter in enumerate(small.parameters()):
            torch.manual_seed(number)
            parameter.add_(0.05 * torch.randn_like(parameter))
    visual, rows = torch.arange(8).view(1, 2, 4), rows_of(every_report(), LENGTH)
    rewards = torch.randn(len(rows), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = likely(step.frozen[0], visual, rows, temperature)

    small.zero_grad()
    own = likely(small, visual, rows, temperature)
    expected = (own.exp() * (rewards - anchor * (own - before))).sum()  # less the KL divergence
    (-expected).backward()
    own = own.detach()
    exact = {n: p.grad.clone() for n, p in small.named_parameters() if p.grad is not None}

    small.zero_grad()
    pairs = torch.cartesian_prod(*[torch.arange(len(rows))] * 2)  # (P, 2)
    probabilities = own[pairs].sum(dim=1).exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    drawn = Drawn(
        visual.expand(len(pairs), -1, -1),
        None,
        rows[pairs.flatten()],
        {"reward": rewards[pairs]},
        real=probabilities,  # for one of equally frequent studies, 1
        studies=1,
        ranks=1,
    )
    terms = step(drawn)
    terms["loss"].backward()
    assert float(terms["reward"]) == pytest.approx(float((own.exp() * rewards).sum()), abs=1e-4)
    divergence = (own.exp() * (own - before)).sum()
    assert float(terms["divergence"]) == pytest.approx(float(divergence), abs=1e-4)
    assert float(divergence) > 0.001
    for name, parameter in small.named_parameters():
        if name in exact:
            torch.testing.assert_close(
                parameter.grad, exact[name], atol=2e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert max(float(of.abs().max()) for of in exact.values()) > 0.01


def test_several_reports_of_a_study_are_read_as_studies_of_their_own(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    for changes in ({}, {"tir": "predicted", "findings": True}, {"visual_pool": 2}):
        model = make_model(**changes)
        visual = make_visual(model, 3)
        present = torch.tensor([[True, True], [True, False], [False, True]])
        reports = torch.randint(3, 11, (6, 8), generator=torch.Generator().manual_seed(0))
        together = model(visual, reports, present)
        apart = model(
            *(of.repeat_interleave(2, dim=0) for of in (visual,)),
            reports,
            present[torch.arange(6) // 2],
        )
        torch.testing.assert_close(together.logits, apart.logits, atol=1e-4, rtol=1e-4)
        assert len(together.image_global) == 3


def test_all_that_reports_depend_on_is_trained(
    make_model: MakeModel, make_visual: MakeVisual, tiny_params: Params
) -> None:
    model = make_model(findings=True, image_dropout=0.1)
    freeze_untouched(model)
    step = PolicyStep(
        model, settings(tiny_params), fabric=cpu(), precision="float32", compiled=False
    )
    rows = torch.randint(3, 11, (6, 8), generator=torch.Generator().manual_seed(0))
    earned = {"reward": torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])}
    real = torch.ones(3, dtype=torch.bool)
    terms = step(Drawn(make_visual(model, 3), None, rows, earned, real, studies=3, ranks=1))
    terms["loss"].backward()
    # it is stage two's model still
    assert float(terms["divergence"]) == pytest.approx(0, abs=1e-5)
    without = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert without == {
        "no_image", "findings.norm.weight", "findings.norm.bias",
        "findings.classify.weight", "findings.classify.bias",
    }  # fmt: skip


# ---- what is drawn


def test_reports_are_drawn_and_rewarded_study_by_study(tiny_params: Params) -> None:
    studies, params = with_findings(), settings(tiny_params, samples=3, temperature=1.3)
    critic, model = Critic(params, studies, VOCABULARY), small_model(tiny_params).eval()
    [batch] = studies.batches(len(studies))
    length = model.sizes.max_length
    drawn = critic.draw(model, batch, seed=7)
    draws = random_draws(7, 3 * len(studies), length).view(-1, 3, length)
    written = [  # one study at a time
        sample(model, batch.visual[[study]], draws[study], 1.3)[0] for study in range(len(studies))
    ]
    texts = [[VOCABULARY.decode(one.ids) for one in of] for of in written]
    rows = drawn.reports.view(len(studies), 3, -1).tolist()
    assert [[VOCABULARY.decode(row) for row in of] for of in rows] == texts
    references = [VOCABULARY.decode(row) for row in studies.reports.tolist()]
    reward = Reward(params, references)
    for study, of_study in enumerate(texts):
        true = np.repeat(findings_of(REPORTS)[[study]], 3, axis=0)
        expected = reward(of_study, [study] * 3, references, true)
        for name, part in expected.items():
            np.testing.assert_allclose(drawn.parts[name][study], part, rtol=1e-5)
    assert drawn.real.all()
    assert (drawn.studies, drawn.ranks) == (8, 1)


def test_a_share_of_a_batch_earns_what_the_whole_does(tiny_params: Params) -> None:
    """Three studies, and two processes with two rows each, the last of them filling."""
    studies, params = with_findings(), settings(tiny_params)
    critic, model = Critic(params, studies, VOCABULARY), small_model(tiny_params).eval()
    [every] = studies.batches(len(studies))
    assert every.findings is not None

    def share(rows: list[int], ids: list[int], own: list[int]) -> Batch:
        filling = torch.tensor(own) < 0
        report = every.report[rows].masked_fill(filling.unsqueeze(1), PAD)
        numbers, findings = torch.tensor(ids), every.findings[rows]
        return Batch(every.visual[rows], report, numbers, studies=3, findings=findings)

    whole = critic.draw(model, share([1, 6, 0], [1, 5, 0], [1, 5, 0]), seed=7)
    ids = [1, 5, 0, -1]
    shares = [
        critic.draw(model, share(rows, ids, ids[2 * rank : 2 * rank + 2]), seed=7, rank=rank)
        for rank, rows in enumerate(([1, 6], [0, 1]))
    ]
    assert [of.real.tolist() for of in shares] == [[True, True], [True, False]]
    assert [(of.ranks, of.studies) for of in shares] == [(2, 3)] * 2
    rows = torch.cat([of.reports.view(2, 4, -1) for of in shares])[:3]
    assert torch.equal(rows.flatten(0, 1), whole.reports)
    for name, part in whole.parts.items():
        together = torch.cat([of.parts[name] for of in shares])
        torch.testing.assert_close(together[:3], part)


# ---- training


@pytest.fixture
def train(tiny_params: Params, tmp_path: Path) -> Callable[..., tuple[Trained, Logged]]:
    """Runs stage three on `with_findings` in `tmp_path / scratch`."""

    def run(
        model: UAR,
        *,
        epochs: int = 3,
        learning_rate: float = 3e-3,
        scratch: str = "scratch",
        kill_at: int | None = None,
        scores: Any = None,
        batch_size: int = 4,
        copies: int = 1,
        **changes: Any,
    ) -> tuple[Trained, Logged]:
        logged: Logged = []
        of = {"batch_size": batch_size, "report_every": 9}
        params = tiny_params.train.model_copy(update=of)
        studies = with_findings(copies)
        critic = Critic(settings(tiny_params, **changes), studies, VOCABULARY)
        fabric = cpu()
        validation = Validation(with_findings(), VOCABULARY, GREEDY, fabric, critic.reward)
        trained = train_stage(
            fabric,
            model,
            data=TrainingData(
                studies=studies, validation=scores or validation, encoder_sha256=None
            ),
            config=TrainingConfig(
                number=3,
                stage=StageParams(epochs=epochs, learning_rate=learning_rate),
                objective=Objective.of_stage(params, with_mask=model.params.tir != "none"),
                params=params,
                precision="float32",
                from_trained=True,
                critic=critic,
            ),
            scratch=Scratch(tmp_path / scratch, {}),
            on_epoch=to_log(logged, kill_at),
        )
        assert trained is not None
        return trained, logged

    return run


def test_a_killed_stage_ends_with_the_same_bits(
    tiny_params: Params, train: Callable[..., Any]
) -> None:
    """Held to stage two's model, not to the one that it goes on from."""
    whole = small_model(tiny_params)
    expected, expected_log = train(whole, scratch="whole", epochs=2, anchor=0.2)
    assert [epoch for epoch, _ in expected_log] == [0, 1, 2]
    with pytest.raises(Killed):
        train(small_model(tiny_params), epochs=2, anchor=0.2, kill_at=2)
    resumed = small_model(tiny_params)
    actual, log = train(resumed, epochs=2, anchor=0.2)
    assert_same_bits(resumed.state_dict(), whole.state_dict())
    assert log == expected_log
    assert_same_bits(actual.best.weights, expected.best.weights)
    assert actual.refusal == expected.refusal
    assert differ(whole.state_dict(), small_model(tiny_params).state_dict())


def test_every_epoch_draws_anew(
    tiny_params: Params, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rate of next to nothing the model stays, and the rewards of what it draws do not."""
    draw, seeds = Critic.draw, []

    def noted(self: Critic, model: UAR, batch: Batch, seed: int, rank: int = 0) -> Any:
        seeds.append(seed)
        return draw(self, model, batch, seed, rank)

    monkeypatch.setattr(Critic, "draw", noted)
    _, log = train(small_model(tiny_params), learning_rate=1e-12, scores=Unseen())
    rewards = [values["train/reward"] for _, values in log[1:]]
    assert len(set(rewards)) == 3
    assert len(seeds) >= 3
    assert len(set(seeds)) == len(seeds)  # not the order of studies alone differs


class Unseen:
    """A validation that takes no time."""

    def __call__(self, *_: Any, **__: Any) -> dict[str, float]:
        return {"cross_entropy": 50.0, "image_gain": 0.0, **scores(0.3, 0.2, 8)}


@pytest.fixture(scope="module")
def writes() -> dict[str, torch.Tensor]:
    """Weights of a model that writes something."""
    return taught(tiny(), steps=25).state_dict()


def model_that_writes(params: Params, weights: dict[str, torch.Tensor]) -> UAR:
    model = small_model(params)
    model.load_state_dict(weights)
    return model


def test_the_reward_rises(
    tiny_params: Params, train: Callable[..., Any], writes: dict[str, torch.Tensor]
) -> None:
    """In four epochs of three steps."""
    _, log = train(
        model_that_writes(tiny_params, writes), epochs=4, learning_rate=1e-2, batch_size=8,
        copies=3, samples=16, scores=Unseen(),
    )  # fmt: skip
    rewards = [values["train/reward"] for _, values in log[1:]]
    assert rewards[-1] > 1.2 * rewards[0] > 0  # 1.8 to 3.4 times by the seed


def test_the_anchor_holds_the_model(
    tiny_params: Params, train: Callable[..., Any], writes: dict[str, torch.Tensor]
) -> None:
    far, near = (
        train(
            model_that_writes(tiny_params, writes), scratch=str(of), learning_rate=2e-2,
            batch_size=8, copies=3, anchor=of, scores=Unseen(),
        )[1]
        for of in (0.0, 10.0)
    )  # fmt: skip
    # a fifth; up to .29 by the seed
    assert near[-1][1]["train/divergence"] < far[-1][1]["train/divergence"] / 2


def test_what_is_logged_of_an_epoch(tiny_params: Params, train: Callable[..., Any]) -> None:
    """Each reward's parts, F1, distinct reports and another study's images; of epoch 0 too."""
    _, log = train(small_model(tiny_params), epochs=1, contrast=0.5)
    for epoch, values in log:
        for part in ("train", "val") if epoch else ("val",):
            of = {name: values[f"{part}/{name}"] for name in ("overlap", "overlap_of_others")}
            expected = of["overlap"] - 0.5 * of["overlap_of_others"]
            expected += values[f"{part}/findings_reward"]
            assert values[f"{part}/reward"] == pytest.approx(expected, abs=1e-4)
        beside = ("F1", "precision", "recall", "CIDEr", "BLEU-4", "shuffled_CIDEr")
        assert all(f"val/{name}" in values for name in beside)
        assert values["val/distinct_share"] == values["val/distinct_reports"] / len(REPORTS)
        assert "val/loss" not in values  # Eq. 13 is not what is trained


# ---- when its model is used


def scores(cider: float, f1: float, distinct: float) -> dict[str, float]:
    return {"CIDEr": cider, "F1": f1, "distinct_reports": distinct}


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        ([(0.3, 0.2, 100), (0.4, 0.2, 90)], None),
        ([(0.3, 0.2, 100), (0.5, 0.1, 100), (0.4, 0.3, 120)], None),
        (
            [(0.3, 0.226, 111), (0.35, 0.1, 60), (0.393, 0.053, 43)],
            "lowered F1 from 0.226 to 0.053 and distinct reports from 111 to 43 (epoch 2, where "
            "CIDEr is 0.393 instead of 0.300): its model is not used",
        ),
        (
            [(0.3, 0.2, 100), (0.4, 0.3, 89)],
            "lowered distinct reports from 100 to 89 (epoch 1, where CIDEr is 0.400 instead of "
            "0.300): its model is not used",
        ),
        (
            [(0.3, 0.2, 100), (0.3, 0.3, 100)],
            "did not raise CIDEr from 0.300 (0.300 at best): its model is not used",
        ),
    ],
)
def test_why_a_model_is_not_used(
    epochs: list[tuple[float, float, float]], message: str | None
) -> None:
    assert refusal([scores(*of) for of in epochs]) == message


def test_nine_of_ten_distinct_reports_and_all_of_f1_have_to_be_left() -> None:
    start = scores(0.3, 0.2, 100)
    assert lost(scores(0.1, 0.2, 90), start) == []
    assert lost(scores(0.9, 0.199, 90), start) == ["F1 from 0.200 to 0.199"]
    assert lost(scores(0.9, 0.3, 89), start) == ["distinct reports from 100 to 89"]


class ScriptedAll(Scripted):
    """`Scripted`, with F1 and distinct reports of each call too."""

    def __init__(self, *of_calls: tuple[float, float, float]) -> None:
        super().__init__(*(cider for cider, _, _ in of_calls))
        self.of_calls: Iterator[tuple[float, float, float]] = iter(of_calls)

    def __call__(self, *arguments: Any, **options: Any) -> dict[str, float]:
        return super().__call__(*arguments, **options) | scores(*next(self.of_calls))


@pytest.mark.parametrize(
    ("of_epochs", "best"),
    [
        ([(0.3, 0.2, 8), (0.5, 0.1, 8), (0.4, 0.2, 8), (0.35, 0.4, 8)], 2),
        ([(0.3, 0.2, 8), (0.5, 0.1, 8), (0.4, 0.3, 7), (0.2, 0.9, 8)], 0),
        ([(0.3, 0.2, 8), (0.3, 0.2, 8), (0.4, 0.2, 8), (0.4, 0.2, 8)], 2),
    ],
)
def test_the_epoch_is_chosen_among_those_that_lost_nothing(
    tiny_params: Params,
    train: Callable[..., Any],
    of_epochs: list[tuple[float, float, float]],
    best: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scripted = ScriptedAll(*of_epochs)
    trained, _ = train(small_model(tiny_params), scores=scripted, batch_size=8, samples=2)
    assert trained.best.epoch == best
    assert_same_bits(trained.best.weights, scripted.weights[best])
    assert (trained.refusal is None) == (best > 0)
    assert scripted.wrote == [True] * 4  # whatever report_every is
    if not best:
        assert "lowered F1 from 0.200 to 0.100" in trained.refusal
        assert "epoch 1 is not a candidate: it lowered F1" in caplog.text


def test_a_reward_of_nothing_is_refused(tiny_params: Params) -> None:
    raw = settings(tiny_params).model_dump() | {"cider": 0.0, "bleu": 0.0, "finding": 0.0}
    with pytest.raises(ValueError, match="no report earns anything"):
        StageThreeParams.model_validate(raw)
    StageThreeParams.model_validate(raw | {"epochs": 0})
