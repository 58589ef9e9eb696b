"""A training stage: resuming after a kill, selection, optimisation, and where stage two starts."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from uar.core.config import Params, StageParams, TrainParams, parse_params
from uar.core.distributed import launch
from uar.core.errors import UserError
from uar.core.schedule import warmup_cosine
from uar.core.special_words import PAD
from uar.data.batches import Batch, Share, Studies, TokenSource
from uar.data.text import Vocabulary
from uar.inference.decoding import generate
from uar.model.checkpoint import Checkpoint
from uar.model.uar import UAR, ModelSizes
from uar.training.objective import Objective
from uar.training.stage import Trained, make_optimizer, train_stage
from uar.training.validation import Validation

REPORTS = [
    "the heart is normal . the lungs are clear .",
    "the heart is enlarged .",
    "there is a left effusion .",
    "the heart is normal . the lungs are clear .",
    "no effusion . the heart is enlarged .",
    "the lungs are clear . no effusion .",
    "there is a nodule .",
    "there is a right effusion .",
]
VOCABULARY = Vocabulary.build(REPORTS, min_count=1)
CODEBOOK, PER_IMAGE, T = 24, 4, 12
STAGE = StageParams(epochs=3, learning_rate=3e-3)
Logged = list[tuple[int, dict[str, float]]]


class Killed(Exception):
    """Stands for the process's end."""


def make_studies() -> Studies:
    """Eight studies of two images, each with a whole view and two crops of its own tokens."""
    count = len(REPORTS)
    tokens = np.random.default_rng(0).integers(0, CODEBOOK, (2 * count, 3, PER_IMAGE))
    rows = np.arange(2 * count).reshape(count, 2)
    return Studies(TokenSource(tokens.astype(np.uint16)), rows, REPORTS, VOCABULARY, T)


def make_model(params: Params, seed: int = 0, **changes: Any) -> UAR:
    torch.manual_seed(seed)
    sizes = ModelSizes(len(VOCABULARY), CODEBOOK, 2 * PER_IMAGE, T)
    return UAR(params.model.model_copy(update=changes), sizes)


def validation() -> Validation:
    return Validation(make_studies(), VOCABULARY, 5, launch("cpu"))


class Scripted:
    """A validation that returns given scores and keeps the weights it saw."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)
        self.weights: list[dict[str, torch.Tensor]] = []

    def __call__(self, model: UAR, objective: Objective) -> dict[str, float]:
        self.weights.append({name: w.clone() for name, w in model.state_dict().items()})
        score = self.scores[len(self.weights) - 1]
        return {"loss": 0.0, "BLEU-4": 0.0, "CIDEr": score, "distinct_reports": 1.0}


@pytest.fixture
def train(tiny_params: Params, tmp_path: Path) -> Callable[..., tuple[Trained, Logged]]:
    """Runs a stage on `make_studies` in `tmp_path / scratch`."""

    def run(
        model: UAR,
        *,
        scratch: str = "scratch",
        stage: StageParams = STAGE,
        identity: str = "this run",
        seed: int = 0,
        kill_at: int | None = None,
        scores: Any = None,
        settings: TrainParams | None = None,
    ) -> tuple[Trained, Logged]:
        logged: Logged = []

        def on_epoch(epoch: int, values: dict[str, float]) -> None:
            if epoch == kill_at:
                raise Killed
            logged.append((epoch, values))

        settings = settings or tiny_params.train.model_copy(update={"batch_size": 3})
        trained = train_stage(
            launch("cpu"),
            model,
            make_studies(),
            scores or validation(),
            Objective.of_stage(settings, with_mask=model.params.tir),
            settings,
            stage,
            precision="float32",
            seed=seed,
            encoder_sha256="0" * 64,
            scratch=tmp_path / scratch,
            identity={"run": identity},
            on_epoch=on_epoch,
        )
        assert trained is not None
        return trained, logged

    return run


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


# ---- going on after a kill


@pytest.mark.parametrize("tir", [False, True], ids=["stage one", "stage two"])
def test_a_killed_stage_ends_with_the_same_bits(
    tiny_params: Params, train: Callable[..., Any], tir: bool
) -> None:
    whole = make_model(tiny_params, tir=tir)
    expected, expected_log = train(whole, scratch="whole")
    assert [epoch for epoch, _ in expected_log] == [1, 2, 3]

    with pytest.raises(Killed):
        train(make_model(tiny_params, tir=tir), kill_at=2)
    resumed = make_model(tiny_params, seed=99, tir=tir)  # its weights come from the resume file
    assert differ(resumed.state_dict(), make_model(tiny_params, tir=tir).state_dict())
    scores = Counted()
    actual, log = train(resumed, scores=scores)
    assert scores.calls == 2  # epochs 2 and 3: the first is not trained again

    assert_same_bits(resumed.state_dict(), whole.state_dict())
    assert log == expected_log
    assert_same_bits(actual.best.weights, expected.best.weights)
    assert replace(actual.best, weights={}) == replace(expected.best, weights={})


class Counted:
    """`validation()`, counting its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: UAR, objective: Objective) -> dict[str, float]:
        self.calls += 1
        return validation()(model, objective)


def test_a_whole_stage_is_not_trained_again(tiny_params: Params, train: Callable[..., Any]) -> None:
    """Killed between its last epoch and the writing of its checkpoint."""
    expected, expected_log = train(make_model(tiny_params))
    scores = Counted()
    actual, log = train(make_model(tiny_params, seed=99), scores=scores)
    assert scores.calls == 0
    assert log == expected_log
    assert_same_bits(actual.best.weights, expected.best.weights)
    assert actual.seconds == expected.seconds > 0  # of the epochs that were trained, then


def test_another_runs_resume_file_is_not_used(
    tiny_params: Params, train: Callable[..., Any]
) -> None:
    whole = make_model(tiny_params)
    _, expected_log = train(whole, scratch="whole")
    with pytest.raises(Killed):
        train(make_model(tiny_params), seed=5, identity="another run", kill_at=3)
    model = make_model(tiny_params)
    _, log = train(model)
    assert log == expected_log
    assert_same_bits(model.state_dict(), whole.state_dict())


def test_the_seed_decides_every_bit(tiny_params: Params, train: Callable[..., Any]) -> None:
    runs = []
    for name, seed in (("first", 0), ("second", 0), ("third", 1)):
        model = make_model(tiny_params)
        _, log = train(model, scratch=name, seed=seed)
        runs.append((model.state_dict(), log))
    (first, first_log), (second, second_log), (third, _) = runs
    assert_same_bits(first, second)
    assert first_log == second_log
    assert differ(first, third)


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_algorithms_are_as_asked(
    tiny_params: Params, train: Callable[..., Any], wanted: bool
) -> None:
    settings = tiny_params.train.model_copy(update={"deterministic": wanted})
    train(make_model(tiny_params), settings=settings, scores=Scripted(0.1, 0.2, 0.3))
    assert torch.are_deterministic_algorithms_enabled() == wanted


# ---- selection and start


@pytest.mark.parametrize(
    ("scores", "best"), [((0.1, 0.5, 0.3), 2), ((0.1, 0.2, 0.3), 3), ((0.4, 0.4, 0.4), 1)]
)
def test_validation_picks_the_best_epoch(
    tiny_params: Params, train: Callable[..., Any], scores: tuple[float, ...], best: int
) -> None:
    scripted = Scripted(*scores)
    trained, _ = train(make_model(tiny_params), scores=scripted)
    checkpoint = trained.best
    assert checkpoint.epoch == best
    assert checkpoint.validation["CIDEr"] == scores[best - 1]
    assert_same_bits(checkpoint.weights, scripted.weights[best - 1])
    assert differ(scripted.weights[0], scripted.weights[1])


def test_the_best_epoch_outlives_a_kill(tiny_params: Params, train: Callable[..., Any]) -> None:
    before = Scripted(0.9, 0.1)
    with pytest.raises(Killed):
        train(make_model(tiny_params), scores=before, kill_at=2)
    trained, _ = train(make_model(tiny_params), scores=Scripted(0.2, 0.3))
    checkpoint = trained.best
    assert (checkpoint.epoch, checkpoint.validation["CIDEr"]) == (1, 0.9)
    assert_same_bits(checkpoint.weights, before.weights[0])


@pytest.mark.parametrize("tir_mask", ["static", "predicted"])
def test_stage_two_starts_where_stage_one_ended(
    tiny_params: Params, train: Callable[..., Any], tmp_path: Path, tir_mask: str
) -> None:
    stage = StageParams(epochs=8, learning_rate=1e-2)
    trained, _ = train(make_model(tiny_params, tir=False), stage=stage)
    best = trained.best
    assert best.validation["CIDEr"] > 0
    best.save(tmp_path / "stage_one.pt")
    model = Checkpoint.load(tmp_path / "stage_one.pt").build(tir=True, tir_mask=tir_mask)
    assert all(layer.refiner is not None for layer in model.decoder.layers)
    objective = Objective.of_stage(tiny_params.train, with_mask=False)
    assert validation()(model, objective) == pytest.approx(best.validation, abs=1e-5)


def test_a_checkpoint_refuses_weights_of_another_model(tiny_params: Params) -> None:
    model = make_model(tiny_params, tir=False)
    checkpoint = Checkpoint.of(model, model.state_dict(), None, 0, {})
    with pytest.raises(UserError, match=r"aligner\.gate"):
        checkpoint.build(fusion="none")


# ---- optimisation


@pytest.mark.parametrize("tir_mask", ["static", "predicted"])
@pytest.mark.parametrize("lsu", [True, False])
def test_only_weight_matrices_decay(tiny_params: Params, tir_mask: str, lsu: bool) -> None:
    model = make_model(tiny_params, tir_mask=tir_mask, lsu=lsu)
    optimizer = make_optimizer(model, tiny_params.train, learning_rate=0.1)
    decaying, kept = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-5, 0.0]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.98)
    parameters = dict(model.named_parameters())
    assert decaying | kept == {id(p) for p in parameters.values()}
    assert not decaying & kept

    for name, parameter in parameters.items():
        if (
            ".refiner." in name
            or name.endswith(("bias", "gain", "positions.table"))
            or "norm" in name
        ):
            assert id(parameter) in kept, name
    for name in (
        "head.weight",
        "aligner.attention.key.weight",
        "aligner.gate.input_gate.weight",
        "encoder.layers.0.feed_forward.0.weight",
        "decoder.layers.1.visual_attention.query.weight",
        "unifier.visual.weight" if lsu else "resnet.project.weight",
        "unifier.text.weight" if lsu else "text_embedding.weight",
    ):
        assert id(parameters[name]) in decaying, name


def test_a_frozen_resnet_is_not_optimised(tiny_params: Params) -> None:
    resnet = tiny_params.model.resnet.model_copy(update={"fine_tune": False})
    model = make_model(tiny_params, lsu=False, resnet=resnet)
    optimizer = make_optimizer(model, tiny_params.train, learning_rate=0.1)
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    frozen = {id(p) for p in model.resnet.resnet.parameters()}
    assert frozen
    assert not frozen & optimised
    assert id(model.resnet.project.weight) in optimised
    model.train()
    assert not any(module.training for module in model.resnet.resnet.modules())


def test_warmup_cosine_values() -> None:
    factor = warmup_cosine(steps=100, warmup=0.1)
    assert [factor(step) for step in range(10)] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factor(10) == pytest.approx(1.0)
    assert factor(55) == pytest.approx(0.5)
    assert factor(25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 6)))
    assert factor(100) == pytest.approx(0.0, abs=1e-12)
    assert all(factor(step) > factor(step + 1) for step in range(10, 100))
    assert warmup_cosine(steps=5, warmup=0.0)(0) == 1.0


def test_the_learning_rate_follows_the_schedule(
    tiny_params: Params, train: Callable[..., Any]
) -> None:
    _, log = train(make_model(tiny_params), scores=Scripted(0.1, 0.2, 0.3))
    factor = warmup_cosine(steps=9, warmup=tiny_params.train.warmup)  # 3 epochs of 3 batches
    rates = [values["learning_rate"] for _, values in log]
    assert rates == pytest.approx([STAGE.learning_rate * factor(step) for step in (3, 6, 9)])


@pytest.mark.parametrize(("batch_size", "steps"), [(3, 3), (4, 2), (7, 1), (8, 1), (16, 1)])
def test_a_last_batch_of_one_study_is_no_step(batch_size: int, steps: int) -> None:
    """It holds no negative for Eq. 10; eight studies by sevens leave one."""
    studies = make_studies()
    batches = list(studies.training_batches(batch_size, torch.Generator().manual_seed(0)))
    assert len(batches) == studies.training_steps(batch_size) == steps
    for (batch,) in batches:
        assert batch.studies is not None and batch.studies > 1
        assert len(batch.report) == batch_size
        assert int((batch.report_ids >= 0).sum()) == batch.studies


# ---- shares of a batch: micro-batches and processes


def shares(share: Share, batch_size: int = 3) -> list[list[Batch]]:
    generator = torch.Generator().manual_seed(4)
    return list(make_studies().training_batches(batch_size, generator, share))


@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2)])
def test_the_shares_of_a_batch_are_the_batch(ranks: int, accumulate: int) -> None:
    """Eight studies by fives: the last batch of three leaves some shares without a study."""
    whole = shares(Share(), 5)
    of_ranks = [shares(Share(rank, ranks, accumulate), 5) for rank in range(ranks)]
    for number, (batch,) in enumerate(whole):
        assert batch.studies is not None
        count = batch.studies
        parts = [
            [steps[number][micro] for steps in of_ranks]
            for micro in range(len(of_ranks[0][number]))
        ]
        visual = torch.cat([b.visual[b.report[:, 0] != PAD] for micro in parts for b in micro])
        report = torch.cat([b.report[b.report[:, 0] != PAD] for micro in parts for b in micro])
        ids = torch.cat([micro[0].report_ids[micro[0].report_ids >= 0] for micro in parts])
        assert torch.equal(visual, batch.visual[:count])
        assert torch.equal(report, batch.report[:count])
        assert torch.equal(ids, batch.report_ids[:count])
        for micro in parts:
            for part in micro:
                assert (part.words, part.studies) == (batch.words, count)
                assert torch.equal(part.report_ids, micro[0].report_ids)
    shapes = {(b.visual.shape, b.report.shape) for steps in of_ranks for s in steps for b in s}
    assert len(shapes) == 1


@pytest.mark.parametrize("tir", [False, True], ids=["stage one", "stage two"])
def test_a_filled_up_batch_has_the_loss_and_gradient_of_its_studies(
    tiny_params: Params, tir: bool
) -> None:
    (_, _, (filled,)) = shares(Share())
    count = filled.studies
    assert count == 2 and len(filled.report) == 3
    alone = Batch(filled.visual[:count], filled.report[:count], filled.report_ids[:count])
    model = make_model(tiny_params, dropout=0.0, tir=tir)
    objective = Objective.of_stage(tiny_params.train, with_mask=tir)
    gradients = []
    for batch in (filled, alone):
        model.zero_grad()
        loss, terms = objective(model, batch)
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()} | terms)
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, atol=1e-5, rtol=1e-4, msg=name)


def test_accumulated_micro_batches_have_the_gradient_of_their_batch(tiny_params: Params) -> None:
    """But for Eq. 10, whose negatives are those of the micro-batch."""
    model = make_model(tiny_params, dropout=0.0)
    settings = tiny_params.train.model_copy(update={"lambda2": 0.0})
    objective = Objective.of_stage(settings, with_mask=True)
    gradients = []
    for share in (Share(), Share(accumulate=3)):
        model.zero_grad()
        for batch in shares(share, 7)[0]:
            objective(model, batch)[0].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-5, rtol=1e-4, msg=name)


def test_every_loss_term_is_logged(tiny_params: Params, train: Callable[..., Any]) -> None:
    _, log = train(make_model(tiny_params, tir=True))
    terms = {"loss", "language_modeling", "global", "mask_sum", "mask_mean"}
    metrics = {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}
    for _, values in log:
        assert values.keys() == (
            {f"train/{name}" for name in terms}
            | {f"val/{name}" for name in metrics | {"loss", "distinct_reports"}}
            | {"learning_rate"}
        )
        weighted = values["train/language_modeling"] + values["train/global"]
        assert values["train/loss"] == pytest.approx(weighted + values["train/mask_sum"], rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_stage(
    tiny_params: Params, train: Callable[..., Any]
) -> None:
    model = make_model(tiny_params)
    with torch.no_grad():
        model.head.bias[5] = torch.nan
    with pytest.raises(UserError, match="epoch 1: the loss is nan.*learning_rate"):
        train(model)


def test_a_tiny_set_is_learned_by_heart(tiny_params: Params, train: Callable[..., Any]) -> None:
    epochs = 100
    model = make_model(tiny_params, dropout=0.0, tir=False)
    settings = tiny_params.train.model_copy(update={"batch_size": 8, "lambda2": 0.0})
    scores = Scripted(*[0.0] * epochs)
    stage = StageParams(epochs=epochs, learning_rate=1e-2)
    _, log = train(model, stage=stage, scores=scores, settings=settings)
    losses = [values["train/language_modeling"] for _, values in log]
    assert losses[0] > 2.0
    assert losses[-1] < 0.1 * losses[0]

    model.eval()
    tokens = make_studies().visual.tokens  # type: ignore[attr-defined]
    crops = torch.from_numpy(tokens[:, 1].astype(np.int64)).view(len(REPORTS), 2, PER_IMAGE)
    written = [VOCABULARY.decode(g.ids) for g in generate(model, crops, beam_size=1)]
    assert written == REPORTS


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++ on a CPU")
def test_a_compiled_model_trains_the_same_and_is_compiled_once(
    tiny_params: Params, train: Callable[..., Any]
) -> None:
    """Eight studies by threes: the smaller last batch of an epoch has the same shape too."""
    torch._dynamo.reset()
    models, graphs = [], []
    for compiled in (False, True):
        settings = tiny_params.train.model_copy(update={"batch_size": 3, "compile": compiled})
        model = make_model(tiny_params, dropout=0.0, encoder_layers=1, decoder_layers=1)
        scores = Scripted(0.1, 0.2, 0.3)

        def counting(model: UAR, objective: Objective, scores: Scripted = scores) -> Any:
            graphs.append(counters["stats"]["unique_graphs"])
            return scores(model, objective)

        train(model, settings=settings, scratch=str(compiled), scores=counting)
        models.append(model.state_dict())
    start, first, *later = graphs[2:]
    assert first > start
    assert later == [first, first]
    for name, expected in models[0].items():
        torch.testing.assert_close(models[1][name], expected, atol=1e-4, rtol=1e-3, msg=name)


def test_the_full_params_hold_the_papers_stages(raw_params: dict[str, Any]) -> None:
    """{lambda1, lambda2, lambda3} = {1, 1, 0} in stage one and {1, 1, 1} in stage two (3.5)."""
    params = parse_params(raw_params, "params.yaml").train
    one, two = (Objective.of_stage(params, with_mask) for with_mask in (False, True))
    assert (one.lambda1, one.lambda2, one.lambda3) == (1, 1, 0)
    assert (two.lambda1, two.lambda2, two.lambda3) == (1, 1, 1)
