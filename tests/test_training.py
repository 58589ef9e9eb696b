"""A training stage: resuming after a kill, selection, optimisation, and where stage two starts."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from pipeline.stages.evaluate import with_image_gain
from tests.conftest import TINY, decode_params, override, read_params, uncounted
from uar.core.config import Params, StageParams, TrainParams
from uar.core.device import measured_peak
from uar.core.distributed import launch
from uar.core.errors import UserError
from uar.core.params_file import parse_params
from uar.core.provenance import Scratch
from uar.core.schedule import warmup_cosine
from uar.core.special_words import EOS, PAD
from uar.core.weights import read_weights, write_weights
from uar.data.batches import Batch, Shard, Studies, TokenSource
from uar.data.text import Vocabulary
from uar.evaluation.baselines import derangement
from uar.evaluation.detection import auc
from uar.evaluation.systems import nats_metrics
from uar.inference.decoding import generate
from uar.inference.reports import write_reports
from uar.model.checkpoint import Checkpoint
from uar.model.uar import UAR, ModelSizes
from uar.training.objective import Objective
from uar.training.optimizer import make_optimizer
from uar.training.stage import Trained, TrainingConfig, TrainingData, as_one_stage, train_stage
from uar.training.thresholds import best_thresholds
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
GREEDY = decode_params(beam_size=1, length_penalty=0.0, guidance=0.0, batch_size=5)
Logged = list[tuple[int, dict[str, float]]]


class Killed(Exception):
    """Stands for the process's end."""


def make_studies(
    findings: np.ndarray | None = None, copies: int = 1, present: np.ndarray | None = None
) -> Studies:
    """Eight studies of two images, each with a whole view and two crops of its own tokens.

    Copies make an epoch longer, which costs less than more epochs: each ends with a resume file.
    """
    count = len(REPORTS)
    tokens = np.random.default_rng(0).integers(0, CODEBOOK, (2 * count, 3, PER_IMAGE))
    rows = np.tile(np.arange(2 * count).reshape(count, 2), (copies, 1))
    source, reports = TokenSource(tokens.astype(np.uint16)), REPORTS * copies
    return Studies(
        source, rows, reports, vocabulary=VOCABULARY, max_length=T, findings=findings,
        present=present,
    )  # fmt: skip


def make_model(params: Params, seed: int = 0, **changes: Any) -> UAR:
    torch.manual_seed(seed)
    sizes = ModelSizes(
        vocabulary=len(VOCABULARY), codebook=CODEBOOK, visual_length=2 * PER_IMAGE, max_length=T
    )
    return UAR(params.model.model_copy(update=changes), sizes)


def small_model(params: Params, seed: int = 0, **changes: Any) -> UAR:
    """With one layer in its decoder, which is all that most of these tests need."""
    return make_model(params, seed, **{"decoder_layers": 1, **changes})


@cache
def cpu() -> Any:
    """One process; launching it anew takes as long as a step of training."""
    return launch("cpu")


@cache
def tiny() -> Params:
    """`tiny_params`, for fixtures of the whole module."""
    raw = deepcopy(read_params())
    for key, value in TINY.items():
        override(raw, key, value)
    return parse_params(raw, "tiny")


def taught(params: Params, steps: int, **changes: Any) -> UAR:
    """A model that has seen its reports, and writes some of them by chance."""
    model, [batch] = small_model(params, **changes), list(make_studies().batches(len(REPORTS)))
    objective = Objective.of_stage(params.train, with_mask=model.params.tir != "none")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(model.train(), batch)[0].backward()
        optimizer.step()
    return model


def validation() -> Validation:
    return Validation(make_studies(), VOCABULARY, GREEDY, cpu())


class Scripted:
    """A validation that returns given scores and keeps the weights it saw.

    Args:
        scores: CIDEr of each call.
        nats: cross-entropy of each call; 50 if not given.
    """

    def __init__(self, *scores: float, nats: tuple[float, ...] = ()) -> None:
        self.scores = list(scores)
        self.nats = nats or (50.0,) * len(scores)
        self.weights: list[dict[str, torch.Tensor]] = []
        self.wrote: list[bool] = []

    def __call__(self, model: UAR, objective: Objective, write: bool = True) -> dict[str, float]:
        self.weights.append({name: w.clone() for name, w in model.state_dict().items()})
        self.wrote.append(write)
        call = len(self.weights) - 1
        scores = {"loss": 0.0, "cross_entropy": self.nats[call], "image_gain": 0.0}
        return scores | ({"CIDEr": self.scores[call]} if write else {})


def to_log(logged: Logged, kill_at: int | None) -> Callable[[int, dict[str, float]], None]:
    """Adds each epoch's values to `logged`, and ends the run at epoch `kill_at`."""

    def on_epoch(epoch: int, values: dict[str, float]) -> None:
        if epoch == kill_at:
            raise Killed
        logged.append((epoch, values))

    return on_epoch


def run_stage(
    folder: Path,
    model: UAR,
    *,
    scratch: str = "scratch",
    stage: StageParams = STAGE,
    identity: str = "this run",
    seed: int = 0,
    number: int = 1,
    from_start: bool = False,
    kill_at: int | None = None,
    scores: Any = None,
    settings: TrainParams | None = None,
    studies: Studies | None = None,
    teacher: UAR | None = None,
    on_speed: Callable[[int, dict[str, float]], None] = lambda epoch, values: None,
    peak: Callable[..., float] = uncounted,
) -> tuple[Trained, Logged]:
    """Run a stage on `make_studies`, by threes unless `settings` say otherwise.

    Its speed is not measured, which would take longer than a tiny stage.
    """
    logged: Logged = []
    settings = settings or tiny().train.model_copy(update={"batch_size": 3})
    settings = settings.model_copy(update={"seed": seed})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uar.training.speed.flops_per_study", uncounted)
        patch.setattr("uar.training.speed.measured_peak", peak)
        trained = train_stage(
            cpu(),
            model,
            data=TrainingData(
                studies=studies or make_studies(),
                validation=scores or validation(),
                encoder_sha256="0" * 64,
                teacher=teacher,
            ),
            config=TrainingConfig(
                number=number,
                stage=stage,
                objective=Objective.of_stage(settings, with_mask=model.params.tir != "none"),
                params=settings,
                precision="float32",
                from_trained=from_start,
            ),
            scratch=Scratch(folder / scratch, {"run": identity}),
            on_epoch=to_log(logged, kill_at),
            on_speed=on_speed,
        )
    assert trained is not None
    return trained, logged


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., tuple[Trained, Logged]]:
    """`run_stage` in `tmp_path / scratch`."""
    return partial(run_stage, tmp_path)


@dataclass(frozen=True)
class Whole:
    """A stage that nothing interrupted."""

    weights: dict[str, torch.Tensor]  # at its end
    trained: Trained
    log: Logged
    resume: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Whole]:
    """Runs `STAGE` with these settings, or gives what it gave before."""

    @cache
    def run(tir: str = "static", average: float = 0.0) -> Whole:
        folder = tmp_path_factory.mktemp("whole")
        model = small_model(tiny(), tir=tir)
        trained, log = run_stage(folder, model, settings=by_threes(weight_average=average))
        return Whole(model.state_dict(), trained, log, folder / "scratch" / "resume.safetensors")

    return run


def by_threes(**changes: Any) -> TrainParams:
    return tiny().train.model_copy(update={"batch_size": 3, **changes})


def all_at_once(**changes: Any) -> TrainParams:
    """An epoch is a single step."""
    return tiny().train.model_copy(update={"batch_size": 8, **changes})


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


# ---- resuming after a kill


@pytest.mark.parametrize(
    ("tir", "average"),
    [("none", 0.0), ("static", 0.0), ("static", 0.9)],
    ids=["stage one", "stage two", "averaged"],
)
def test_a_killed_stage_ends_with_the_same_bits(
    tiny_params: Params,
    train: Callable[..., Any],
    whole: Callable[..., Whole],
    tmp_path: Path,
    tir: str,
    average: float,
) -> None:
    train = partial(train, settings=by_threes(weight_average=average))
    expected = whole(tir, average)
    assert [epoch for epoch, _ in expected.log] == [1, 2, 3]

    with pytest.raises(Killed):
        train(small_model(tiny_params, tir=tir), kill_at=2)
    resumed = small_model(tiny_params, seed=99, tir=tir)  # its weights come from the resume file
    assert differ(resumed.state_dict(), small_model(tiny_params, tir=tir).state_dict())
    scores = Counted()
    actual, log = train(resumed, scores=scores)
    assert scores.calls == 2  # epochs 2 and 3: the first is not trained again

    assert_same_bits(resumed.state_dict(), expected.weights)
    assert log == expected.log
    assert_same_bits(actual.best.weights, expected.trained.best.weights)
    actual.best.save(tmp_path / "actual")
    expected.trained.best.save(tmp_path / "expected")
    assert (tmp_path / "actual").read_bytes() == (tmp_path / "expected").read_bytes()


def test_an_epochs_speed_is_told_apart_from_its_values(
    tiny_params: Params,
    train: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    speeds: dict[int, dict[str, float]] = {}
    caplog.set_level("INFO", logger="uar")
    _, logged = train(
        small_model(tiny_params), from_start=True, on_speed=speeds.__setitem__, peak=measured_peak
    )
    assert list(speeds) == [0, 1, 2, 3]
    assert list(speeds[0]) == ["seconds", "host_memory"]  # nothing was trained
    assert list(speeds[1]) == ["seconds", "studies_per_second", "share_of_peak", "host_memory"]
    assert all(value > 0 for value in speeds[1].values())
    assert not set(speeds[1]) & {name for _, values in logged for name in values}
    assert "% of the measured peak" in caplog.text
    shown = re.findall(r"val/([\w-]+) ", caplog.messages[0])
    assert shown == ["cross_entropy", "image_gain", "BLEU-4", "CIDEr", "distinct_reports"]
    assert ["seconds left)" in line for line in caplog.messages] == [True, True, True, False]


class Counted:
    """`validation()`, counting its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: UAR, objective: Objective, write: bool = True) -> dict[str, float]:
        self.calls += 1
        return validation()(model, objective, write)


def test_a_whole_stage_is_not_trained_again(
    tiny_params: Params, train: Callable[..., Any], whole: Callable[..., Whole], tmp_path: Path
) -> None:
    """Killed between its last epoch and the writing of its checkpoint."""
    expected, scores = whole(), Counted()
    (tmp_path / "scratch").mkdir()
    shutil.copy(expected.resume, tmp_path / "scratch")
    actual, log = train(small_model(tiny_params, seed=99), scores=scores)
    assert scores.calls == 0
    assert log == expected.log
    assert_same_bits(actual.best.weights, expected.trained.best.weights)
    assert actual.seconds == expected.trained.seconds > 0  # of the epochs that were trained, then


def test_another_runs_resume_file_is_not_used_and_the_log_says_in_what_it_differs(
    tiny_params: Params,
    train: Callable[..., Any],
    whole: Callable[..., Whole],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(Killed):
        train(small_model(tiny_params), seed=5, identity="another run", kill_at=2)
    model = small_model(tiny_params)
    _, log = train(model)
    assert log == whole().log
    assert_same_bits(model.state_dict(), whole().weights)
    assert "is not used; it differs in: run" in caplog.text


def rewritten(
    change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object],
) -> Callable[[Path], None]:
    """A resume file that is whole but says something else."""

    def damage(path: Path) -> None:
        tensors, about = read_weights(path, "resume file")
        change(tensors, about)
        write_weights(path, "resume file", tensors, about)

    return damage


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The resume file of a stage of two epochs, killed in the second."""
    folder = tmp_path_factory.mktemp("unfinished")
    with pytest.raises(Killed):
        run_two_epochs(folder, Scripted(0.1, 0.2), kill_at=2)
    return folder / "scratch" / "resume.safetensors"


def run_two_epochs(folder: Path, scores: Scripted, kill_at: int | None = None) -> Logged:
    stage = StageParams(epochs=2, learning_rate=3e-3)
    settings, model = all_at_once(), small_model(tiny())
    return run_stage(folder, model, stage=stage, settings=settings, scores=scores, kill_at=kill_at)[
        1
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04N."),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:-9] + b"\0" + path.read_bytes()[-8:]),
        lambda path: torch.save({"identity": {"run": "this run"}}, path),
        rewritten(lambda t, _: t["weights/head.weight"].fill_(torch.nan)),
        rewritten(lambda t, _: t["optimizer/head.weight/exp_avg"].fill_(torch.inf)),
        rewritten(lambda t, _: t.pop("weights/head.weight")),
        rewritten(lambda t, _: t.pop("optimizer/head.bias/step") and t.pop("weights/head.bias")),
        rewritten(lambda t, _: t.update({"weights/head.bias": torch.zeros(1)})),
        rewritten(lambda t, _: t.update({"optimizer/head.bias/exp_avg": torch.zeros(1)})),
        rewritten(lambda t, _: t.update({"more": torch.zeros(1)})),
        rewritten(lambda _, about: about.pop("schedule")),
        rewritten(lambda _, about: about.pop("identity")),
        rewritten(lambda _, about: about.update(past=3)),
        rewritten(lambda _, about: about.update(best=[])),
        rewritten(lambda _, about: about.update(best={"epoch": 1})),
        rewritten(lambda _, about: about.update(param_groups=None)),
        rewritten(lambda _, about: about.update(seconds="long")),
    ],
)
def test_a_damaged_resume_file_is_moved_aside_and_the_stage_begins_anew(
    unfinished: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    (tmp_path / "scratch").mkdir()
    resume = tmp_path / "scratch" / "resume.safetensors"
    shutil.copy(unfinished, resume)
    damage(resume)
    scores = Scripted(0.1, 0.2)
    log = run_two_epochs(tmp_path, scores)
    assert len(scores.weights) == len(log) == 2
    assert "training starts over" in caplog.text
    assert resume.with_name("resume.safetensors.damaged").is_file()


def test_a_resume_file_that_is_not_damaged_is_used(unfinished: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    shutil.copy(unfinished, tmp_path / "scratch")
    scores = Scripted(0.2)
    assert len(run_two_epochs(tmp_path, scores)) == 2
    assert len(scores.weights) == 1


def test_a_full_disk_is_known_before_the_first_epoch(
    tiny_params: Params,
    train: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The resume file twice and a checkpoint: what is asked for holds what is written."""
    asked: list[int] = []
    monkeypatch.setattr("uar.training.stage.require_room", lambda _, needed: asked.append(needed))
    stage = StageParams(epochs=1, learning_rate=3e-3)
    train(small_model(tiny_params), stage=stage, settings=all_at_once(), scores=Scripted(0.1))
    (resume,) = tmp_path.rglob("resume.safetensors")
    held = sum(tensor.nbytes for tensor in read_weights(resume, "resume file")[0].values())
    assert 2 * held < asked[0] < 3 * held


def test_seed_and_stage_decide_every_bit(
    tiny_params: Params, train: Callable[..., Any], whole: Callable[..., Whole]
) -> None:
    """Each stage draws its own order and dropout."""
    again = small_model(tiny_params)
    _, log = train(again, scratch="again")
    assert_same_bits(again.state_dict(), whole().weights)
    assert log == whole().log
    others: list[dict[str, Any]] = [{"seed": 1}, {"number": 2}]
    for changes in others:
        other, scores = small_model(tiny_params), Scripted(0.1, 0.2, 0.3)
        train(other, scratch=str(changes), scores=scores, **changes)
        assert differ(other.state_dict(), whole().weights)


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_algorithms_are_as_asked(
    tiny_params: Params, train: Callable[..., Any], wanted: bool
) -> None:
    settings, stage = all_at_once(deterministic=wanted), STAGE.model_copy(update={"epochs": 1})
    train(small_model(tiny_params), settings=settings, stage=stage, scores=Scripted(0.1))
    assert torch.are_deterministic_algorithms_enabled() == wanted


# ---- selection and start


@pytest.mark.parametrize(
    ("scores", "best"), [((0.1, 0.5, 0.3), 2), ((0.1, 0.2, 0.3), 3), ((0.4, 0.4, 0.4), 3)]
)
def test_validation_picks_the_best_epoch(
    tiny_params: Params, train: Callable[..., Any], scores: tuple[float, ...], best: int
) -> None:
    scripted = Scripted(*scores)
    trained, _ = train(small_model(tiny_params), scores=scripted, settings=all_at_once())
    checkpoint = trained.best
    assert checkpoint.epoch == best
    assert checkpoint.validation["CIDEr"] == scores[best - 1]
    assert_same_bits(checkpoint.weights, scripted.weights[best - 1])
    assert differ(scripted.weights[0], scripted.weights[1])


@pytest.mark.parametrize(
    ("nats", "best"), [((60.0, 55.0, 58.0), 2), ((60.0, 61.0, 62.0), 1), ((60.0, 60.0, 61.0), 2)]
)
def test_equal_scores_are_told_apart_by_cross_entropy_and_then_the_later_wins(
    tiny_params: Params, train: Callable[..., Any], nats: tuple[float, ...], best: int
) -> None:
    """The constant report's CIDEr stays the same for epochs while the model learns."""
    scripted = Scripted(0.4, 0.4, 0.4, nats=nats)
    trained, _ = train(small_model(tiny_params), scores=scripted, settings=all_at_once())
    assert trained.best.epoch == best


@pytest.mark.parametrize(("scores", "best"), [((0.6, 0.5, 0.1, 0.2), 0), ((0.6, 0.5, 0.7, 0), 2)])
def test_the_starting_model_is_epoch_0(
    tiny_params: Params, train: Callable[..., Any], scores: tuple[float, ...], best: int
) -> None:
    model = small_model(tiny_params)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    scripted = Scripted(*scores)
    trained, log = train(model, scores=scripted, settings=all_at_once(), from_start=True)
    assert [epoch for epoch, _ in log] == [0, 1, 2, 3]
    assert not any(name.startswith("train/") for name in log[0][1])
    assert trained.best.epoch == best
    assert_same_bits(scripted.weights[0], before)
    assert_same_bits(trained.best.weights, scripted.weights[best])


def test_only_epochs_with_reports_are_candidates(
    tiny_params: Params, train: Callable[..., Any]
) -> None:
    settings, scripted = all_at_once(report_every=2), Scripted(0.9, 0.1, 0.8, 0.3, 0.2)
    stage = StageParams(epochs=5, learning_rate=3e-3)
    trained, log = train(small_model(tiny_params), settings=settings, scores=scripted, stage=stage)
    assert scripted.wrote == [False, True, False, True, True]  # every second, and the last
    assert ["val/CIDEr" in values for _, values in log] == scripted.wrote
    assert (trained.best.epoch, trained.best.validation["CIDEr"]) == (4, 0.3)


@pytest.mark.parametrize(
    ("nats", "best"), [((60.0, 55.0, 58.0), 2), ((60.0, 55.0, 54.0), 3), ((55.0, 55.0, 60.0), 2)]
)
def test_cross_entropy_chooses_among_all_epochs(
    tiny_params: Params, train: Callable[..., Any], nats: tuple[float, ...], best: int
) -> None:
    """With reports or without, and whatever these score."""
    settings = all_at_once(report_every=3, select_by="cross_entropy")
    scripted = Scripted(0.9, 0.1, 0.2, nats=nats)
    trained, _ = train(small_model(tiny_params), settings=settings, scores=scripted)
    assert scripted.wrote == [False, False, True]
    assert trained.best.epoch == best
    assert trained.best.validation["cross_entropy"] == nats[best - 1]
    assert_same_bits(trained.best.weights, scripted.weights[best - 1])


def test_one_stage_trains_as_long_as_both(tiny_params: Params) -> None:
    one, two = (StageParams(epochs=e, learning_rate=lr) for e, lr in ((7, 0.01), (2, 0.5)))
    train = tiny_params.train.model_copy(update={"stage_one": one, "stage_two": two})
    assert as_one_stage(train) == StageParams(epochs=9, learning_rate=0.01)


def test_the_best_epoch_outlives_a_kill(tiny_params: Params, train: Callable[..., Any]) -> None:
    before = Scripted(0.9, 0.1)
    with pytest.raises(Killed):
        train(small_model(tiny_params), scores=before, settings=all_at_once(), kill_at=2)
    after = Scripted(0.2, 0.3)
    trained, _ = train(small_model(tiny_params), scores=after, settings=all_at_once())
    checkpoint = trained.best
    assert (checkpoint.epoch, checkpoint.validation["CIDEr"]) == (1, 0.9)
    assert_same_bits(checkpoint.weights, before.weights[0])


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a stage one, of which a stage two knows nothing else."""
    folder, stage = tmp_path_factory.mktemp("one"), StageParams(epochs=2, learning_rate=1e-3)
    model = taught(tiny(), steps=25, tir="none", decoder_layers=2)
    trained, _ = run_stage(folder, model, stage=stage)
    trained.best.save(folder / "stage_one.safetensors")
    return folder / "stage_one.safetensors"


@pytest.mark.parametrize("tir", ["static", "predicted"])
def test_stage_two_starts_where_stage_one_ended(
    tiny_params: Params, stage_one: Path, tir: str
) -> None:
    best = Checkpoint.load(stage_one)
    assert best.validation["CIDEr"] > 0
    model = best.build(tir=tir)
    assert all(layer.refiner is not None for layer in model.decoder.layers)
    objective = Objective.of_stage(tiny_params.train, with_mask=False)
    values = validation()(model, objective)
    assert values.pop("changed_by_mask") == 0
    values = {name: value for name, value in values.items() if not name.startswith("mask_")}
    assert values == pytest.approx(best.validation, abs=1e-4)


def test_a_checkpoint_refuses_weights_of_another_model(tiny_params: Params) -> None:
    model = small_model(tiny_params, tir="none")
    checkpoint = Checkpoint.of(
        model, model.state_dict(), encoder_sha256=None, epoch=0, validation={}
    )
    with pytest.raises(UserError, match=r"aligner\.gate"):
        checkpoint.build(fusion="none")


def test_a_model_comes_nearer_to_its_teacher(
    tiny_params: Params, train: Callable[..., tuple[Trained, Logged]]
) -> None:
    teacher = small_model(tiny_params, seed=7, tir="none").eval()
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    student = small_model(tiny_params, tir="none")
    trained, epochs = train(student, teacher=teacher, scores=Scripted(0.1, 0.2, 0.3))
    divergences = [values["train/teachers"] for _, values in epochs]
    assert divergences[-1] < divergences[0]
    assert set(trained.best.weights) == set(student.state_dict())
    for name, weight in teacher.state_dict().items():
        assert torch.equal(weight, before[name]), name


# ---- what validation says


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_validation_and_evaluation_write_as_decode_says(
    tiny_params: Params, guidance: float
) -> None:
    model = small_model(tiny_params, seed=2, image_dropout=0.5).eval()
    torch.nn.init.normal_(model.no_image, std=2.0, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():  # reports of several lengths
        model.head.weight.mul_(2)
        model.head.bias[EOS] += 1.5
    studies, penalty = make_studies(), 1.0
    decode = decode_params(beam_size=2, length_penalty=penalty, guidance=guidance, batch_size=5)
    [batch] = studies.batches(len(studies))
    expected = [
        VOCABULARY.decode(report.ids)
        for report in generate(model, batch.visual, 2, penalty, guidance=guidance)
    ]
    names = [str(number) for number in range(len(studies))]
    predictions = write_reports(
        model, studies, study_ids=names, raw_reports=REPORTS, vocabulary=VOCABULARY,
        params=decode, what="tests",
    )  # fmt: skip
    assert [prediction.generated for prediction in predictions] == expected
    written = Validation(studies, VOCABULARY, decode, cpu())._write(model, batch, model.tables())
    assert written == expected
    for other in (  # each setting has its say
        generate(model, batch.visual, 1, penalty, guidance=guidance),
        generate(model, batch.visual, 2, 0.0, guidance=guidance),
        generate(model, batch.visual, 2, penalty, guidance=2.0 - guidance),
    ):
        assert [VOCABULARY.decode(report.ids) for report in other] != expected


@pytest.mark.parametrize("missing", [[], [1, 4, 6]], ids=["all views", "some views"])
def test_image_gain_is_the_cross_entropy_of_another_studys_images_less_its_own(
    tiny_params: Params, missing: list[int]
) -> None:
    model = make_model(tiny_params).eval()
    objective = Objective.of_stage(tiny_params.train, with_mask=False)
    present = np.ones((8, 2), bool)
    present[missing, 1] = False
    studies = make_studies(present=present)
    values = Validation(studies, VOCABULARY, GREEDY, cpu())(model, objective, write=False)
    assert "CIDEr" not in values

    def nats(others: list[int]) -> float:
        """Nats a report, one study at a time and one word at a time."""
        total = 0.0
        for study, other in enumerate(others):
            visual = torch.from_numpy(studies.visual.tokens[studies.rows[other], 0].astype(int))
            report = studies.reports[study : study + 1]
            with torch.inference_mode():
                views = torch.from_numpy(present[[other]])
                likely = model(visual.unsqueeze(0), report, views).logits.log_softmax(-1)[0]
            words = report[0, 1:]
            total -= sum(float(likely[t, word]) for t, word in enumerate(words) if word != PAD)
        return total / len(others)

    own = nats(list(range(8)))
    assert values["cross_entropy"] == pytest.approx(own, rel=1e-5)
    others = derangement(8, seed=0)
    assert values["image_gain"] == pytest.approx(nats(others.tolist()) - own, abs=1e-4)
    assert values["image_gain"] != 0

    decode, names = tiny_params.decode, [str(number) for number in range(8)]
    own_images, other_images = (
        write_reports(
            model,
            images,
            study_ids=names,
            raw_reports=REPORTS,
            vocabulary=VOCABULARY,
            params=decode,
            what="tests",
        )
        for images in (studies, studies.with_images_of(others))
    )
    told = with_image_gain(own_images, other_images)  # as `evaluate` does for the test split
    for name, of in nats_metrics(told).items():
        assert of.value() == pytest.approx(values[name], rel=1e-4)


def test_each_term_of_the_loss_is_logged_on_its_own(tiny_params: Params) -> None:
    model = small_model(tiny_params, tir="static")
    settings = tiny_params.train.model_copy(
        update={"lambda1": 0.5, "lambda2": 2.0, "lambda3": 0.25}
    )
    values = validation()(model, Objective.of_stage(settings, with_mask=True), write=False)
    parts = values["language_modeling"], values["global"], values["mask_sum"]
    assert values["loss"] == pytest.approx(0.5 * parts[0] + 2 * parts[1] + 0.25 * parts[2])
    assert all(part > 0 for part in parts)
    assert values["mask_spread"] == 0  # at the start


# ---- optimisation


@pytest.mark.parametrize("tir", ["static", "predicted"])
@pytest.mark.parametrize("lsu", [True, False])
def test_only_weight_matrices_decay(tiny_params: Params, tir: str, lsu: bool) -> None:
    model = make_model(tiny_params, tir=tir, lsu=lsu)
    optimizer = make_optimizer(model, tiny_params.train, learning_rate=0.1)
    decaying, kept, masks = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-5, 0.0, 0.0]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.98)
    parameters = dict(model.named_parameters())
    assert decaying | kept | masks == {id(p) for p in parameters.values()}
    assert not decaying & kept
    assert masks == {id(p) for name, p in parameters.items() if ".refiner." in name}
    assert not masks & (decaying | kept)

    for name, parameter in parameters.items():
        if ".refiner." in name:
            continue
        if name.endswith(("bias", "gain", "positions.table")) or "norm" in name:
            assert id(parameter) in kept, name
    for name in (
        "head.weight",
        "aligner.attention.key.weight",
        "aligner.gate.input_gate.weight",
        "encoder.layers.0.feed_forward.0.weight",
        "decoder.layers.1.visual_attention.query.weight",
        "unifier.visual.weight" if lsu else "extractor.project.weight",
        "unifier.text.weight" if lsu else "text_embedding.weight",
    ):
        assert id(parameters[name]) in decaying, name


@pytest.fixture(scope="module")
def writes() -> dict[str, torch.Tensor]:
    """Weights of a model without masks that writes something."""
    return taught(tiny(), steps=12, tir="none", decoder_layers=2).state_dict()


def trained_with_mask(
    params: Params, train: Callable[..., Any], start: dict[str, torch.Tensor], **changes: Any
) -> tuple[UAR, dict[str, float]]:
    """Stage two from these weights, for an epoch of eight steps, and its values."""
    model = make_model(params, tir="static")
    model.load_state_dict(start, strict=False)
    scores = changes.pop("scores", None)
    _, log = train(
        model, stage=StageParams(epochs=1, learning_rate=1e-4), settings=by_threes(**changes),
        number=2, studies=make_studies(copies=3), scratch=f"two {changes}", scores=scores,
    )  # fmt: skip
    return model, log[-1][1]


def test_a_trained_mask_changes_reports(
    tiny_params: Params, train: Callable[..., Any], writes: dict[str, torch.Tensor]
) -> None:
    """In the common group M moves as one, which softmax ignores: it does nothing (Eq. 11, 12)."""
    _, printed = trained_with_mask(tiny_params, train, writes, mask_learning_rate=None)
    model, values = trained_with_mask(tiny_params, train, writes, mask_learning_rate=0.1)
    masks = torch.stack([layer.refiner.mask.detach() for layer in model.decoder.layers])
    spread = masks[:, : T - 1].std(dim=-1).mean()
    assert spread > 0.02  # .060 to .086 by the seed
    assert values["val/mask_spread"] == pytest.approx(float(masks.std(dim=-1).mean()), rel=1e-3)
    assert printed["val/mask_spread"] < 0.1 * values["val/mask_spread"]  # .0001
    assert values["val/changed_by_mask"] >= 1  # 7; 2 to 8 by the seed
    assert all(layer.refiner is not None for layer in model.decoder.layers)  # put back


def test_the_mask_is_no_part_of_the_clipped_norm(
    tiny_params: Params, train: Callable[..., Any], writes: dict[str, torch.Tensor]
) -> None:
    """L_mask's gradient would shrink every other update; as printed it does."""
    printed, apart = (
        trained_with_mask(
            tiny_params, train, writes, mask_learning_rate=rate, gradient_clip=10.0,
            lambda3=100.0, scores=Scripted(0.1),
        )[1]
        for rate in (None, 0.1)
    )  # fmt: skip
    assert printed["train/clipped"] == 1.0  # norms of 124 and more
    assert apart["train/clipped"] == 0.0  # of 2.2 at most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_that_moved_as_a_whole_leaves_attention_exact(
    tiny_params: Params, dtype: torch.dtype
) -> None:
    layer = small_model(tiny_params, tir="static").decoder.layers[0]
    spread = torch.rand(1, T, 8) * 1e-3
    biases = []
    for shift in (0.0, 3.0):
        sigma = torch.sigmoid(torch.full_like(spread, shift)) + spread
        biases.append(layer._bias(sigma, None).to(dtype).float())
    expected = layer.mask_scale * (spread - spread.amax(-1, keepdim=True)).unsqueeze(1)
    tolerance = {"atol": 2e-4} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 2e-4}
    for bias in biases:
        torch.testing.assert_close(bias, expected, **{"rtol": 0, **tolerance})


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
    _, log = train(small_model(tiny_params), scores=Scripted(0.1, 0.2, 0.3))
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


# ---- shards of a batch: micro-batches and processes


def shards(shard: Shard, batch_size: int = 3) -> list[list[Batch]]:
    generator = torch.Generator().manual_seed(4)
    return list(make_studies().training_batches(batch_size, generator, shard))


@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2)])
def test_the_shards_of_a_batch_are_the_batch(ranks: int, accumulate: int) -> None:
    """Eight studies by fives: the last batch of three leaves some shards without a study."""
    whole = shards(Shard(), 5)
    of_ranks = [shards(Shard(rank, ranks, accumulate), 5) for rank in range(ranks)]
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
    (_, _, (filled,)) = shards(Shard())
    count = filled.studies
    assert count == 2 and len(filled.report) == 3
    alone = Batch(filled.visual[:count], filled.report[:count], filled.report_ids[:count])
    model = small_model(tiny_params, dropout=0.0, tir=tir)
    objective = Objective.of_stage(tiny_params.train, with_mask=tir)
    gradients = []
    for batch in (filled, alone):
        model.zero_grad()
        loss, terms = objective(model, batch)
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()} | terms)
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, atol=1e-5, rtol=1e-4, msg=name)


def model_with_head(params: Params) -> UAR:
    """Of three findings, in evaluation mode."""
    sizes = ModelSizes(
        vocabulary=len(VOCABULARY),
        codebook=CODEBOOK,
        visual_length=2 * PER_IMAGE,
        max_length=T,
        findings=3,
    )
    switches = {"findings": True, "tir": "static", "dropout": 0.0}
    return UAR(params.model.model_copy(update=switches), sizes).eval()


def test_validation_scores_the_findings_head_and_sets_its_thresholds(tiny_params: Params) -> None:
    """In batches of three, of which the last is smaller."""
    model, findings = model_with_head(tiny_params), torch.rand(len(REPORTS), 3) < 0.4
    objective = Objective.of_stage(tiny_params.train, with_mask=True)
    studies = make_studies(findings.numpy())
    decode = decode_params(beam_size=1, guidance=0.0, batch_size=3)
    values = Validation(studies, VOCABULARY, decode, cpu())(model, objective, write=False)
    [batch] = studies.batches(len(studies))
    with torch.no_grad():
        logits = model.finding_logits(batch.visual, model.tables(), None)
    probabilities, true = logits.sigmoid().numpy(), findings.numpy()
    thresholds, f1 = best_thresholds(probabilities, true)
    assert values["findings_f1"] == pytest.approx(f1)
    assert model.findings is not None
    assert model.findings.thresholds.tolist() == pytest.approx(thresholds.tolist(), abs=1e-5)
    assert "findings" not in values  # a loss that this objective leaves out


def test_the_heads_auc_is_that_of_findings_that_are_frequent_enough(tiny_params: Params) -> None:
    """Four studies at least: here twelve of 24 have each finding."""
    studies, three = make_studies(), [*range(len(REPORTS))] * 3
    findings = np.tile(np.arange(len(REPORTS))[:, None] % 2 == 0, (3, 3))
    many = Studies(
        studies.visual, studies.rows[three], [REPORTS[i] for i in three], vocabulary=VOCABULARY,
        max_length=T, findings=findings,
    )  # fmt: skip
    model = model_with_head(tiny_params)
    objective = Objective.of_stage(tiny_params.train, with_mask=True)
    values = Validation(many, VOCABULARY, GREEDY, cpu())(model, objective, write=False)
    [batch] = many.batches(len(many))
    with torch.no_grad():
        logits = model.finding_logits(batch.visual, model.tables(), None).numpy()
    wanted = np.mean([auc(logits[:, i], findings[:, i]) for i in range(3)])
    assert values["findings_auc"] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_mean_of_the_ranks_terms_is_the_batchs(tiny_params: Params, ranks: int) -> None:
    """Seven studies on two ranks, eight on three: with a filler each."""
    findings = torch.rand(len(REPORTS), 3) < 0.4
    model = model_with_head(tiny_params)
    objective = Objective.of_stage(tiny_params.train, with_mask=True, findings=findings)
    studies = make_studies(findings.numpy())

    def drawn(shard: Shard) -> Batch:
        [batch] = next(studies.training_batches(9 - ranks, torch.Generator(), shard))
        return batch

    with torch.no_grad():
        _, whole = objective(model, drawn(Shard()))
    parts = [drawn(Shard(rank, ranks)) for rank in range(ranks)]
    with torch.no_grad():
        outputs = [model(part.visual, part.report, findings=part.findings) for part in parts]
    gathered = iter(
        torch.cat([getattr(output, name) for output in outputs])
        for _ in parts
        for name in ("image_global", "report_global")
    )
    terms = [
        objective.of_output(output, part, lambda _: next(gathered))[1]
        for output, part in zip(outputs, parts, strict=True)
    ]
    expected = {"loss", "language_modeling", "global", "findings", "mask_sum", "mask_mean"}
    assert whole.keys() == expected
    for name, value in whole.items():
        assert float(value) > 0
        mean = sum(float(of_rank[name]) for of_rank in terms) / ranks
        assert mean == pytest.approx(float(value), rel=1e-5), name


def test_accumulated_micro_batches_have_the_gradient_of_their_batch(tiny_params: Params) -> None:
    """But for Eq. 10, whose negatives are those of the micro-batch."""
    model = small_model(tiny_params, dropout=0.0)
    settings = tiny_params.train.model_copy(update={"lambda2": 0.0})
    objective = Objective.of_stage(settings, with_mask=True)
    gradients = []
    for shard in (Shard(), Shard(accumulate=3)):
        model.zero_grad()
        for batch in shards(shard, 7)[0]:
            objective(model, batch)[0].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-5, rtol=1e-4, msg=name)


def test_every_loss_term_is_logged(tiny_params: Params, train: Callable[..., Any]) -> None:
    _, log = train(small_model(tiny_params, tir="static"))
    terms = {"loss", "language_modeling", "global", "mask_sum", "mask_mean"}
    metrics = {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}
    extra = {"cross_entropy", "image_gain", "distinct_reports", "mask_spread", "changed_by_mask"}
    for _, values in log:
        assert values.keys() == (
            {f"train/{name}" for name in terms | {"clipped"}}
            | {f"val/{name}" for name in metrics | terms | extra}
            | {"learning_rate"}
        )
        weighted = values["train/language_modeling"] + values["train/global"]
        assert values["train/loss"] == pytest.approx(weighted + values["train/mask_sum"], rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_stage(
    tiny_params: Params, train: Callable[..., Any]
) -> None:
    model = small_model(tiny_params)
    with torch.no_grad():
        model.head.bias[5] = torch.nan
    with pytest.raises(UserError, match="epoch 1/3: the loss is nan.*learning_rate"):
        train(model)


def test_a_tiny_set_is_learned_by_heart(tiny_params: Params, train: Callable[..., Any]) -> None:
    """In sixty steps, by a model wide enough to."""
    model = small_model(tiny_params, dropout=0.0, tir="none", d_model=32, d_ff=64)
    _, log = train(
        model, stage=StageParams(epochs=3, learning_rate=2e-2), settings=all_at_once(lambda2=0.0),
        scores=Scripted(0.0, 0.0, 0.0), studies=make_studies(copies=20),
    )  # fmt: skip
    first, *_, last = [values["train/language_modeling"] for _, values in log]
    assert first > 0.5  # 1.0, a mean over twenty steps
    assert last < 0.1 * first  # .014 to .024 by the seed

    model.eval()
    tokens = make_studies().visual.tokens  # type: ignore[attr-defined]
    crops = torch.from_numpy(tokens[:, 1].astype(np.int64)).view(len(REPORTS), 2, PER_IMAGE)
    written = [VOCABULARY.decode(g.ids) for g in generate(model, crops, beam_size=1)]
    assert written == REPORTS


def test_a_compiled_model_trains_the_same_and_is_compiled_once(
    tiny_params: Params, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight studies by threes: the smaller last batch of an epoch has the same shape too.

    The backend traces the model and its gradient and runs what it traced, without the minutes that
    the default one needs to have C++ compiled.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    models, graphs = [], []
    for compiled in (False, True):
        settings = tiny_params.train.model_copy(update={"batch_size": 3, "compile": compiled})
        model = small_model(tiny_params, dropout=0.0, encoder_layers=1, decoder_layers=1)
        scores = Scripted(0.1, 0.2, 0.3)

        def counting(
            model: UAR, objective: Objective, write: bool, scores: Scripted = scores
        ) -> Any:
            graphs.append(counters["stats"]["unique_graphs"])
            return scores(model, objective, write)

        train(model, settings=settings, scratch=str(compiled), scores=counting)
        models.append(model.state_dict())
    start, first, *later = graphs[2:]
    assert first > start
    assert later == [first, first]
    for name, expected in models[0].items():
        torch.testing.assert_close(models[1][name], expected, atol=1e-4, rtol=1e-3, msg=name)


def test_an_objective_has_the_weights_of_params_yaml(tiny_params: Params) -> None:
    params = tiny_params.train.model_copy(update={"lambda3": 0.7})
    objective = Objective.of_stage(params, with_mask=True)
    assert (objective.params, objective.lambda3) == (params, 0.7)
    shares = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    weights = Objective.of_stage(tiny_params.train, False, shares).positive_weights
    assert weights is not None
    assert weights.tolist() == pytest.approx([math.sqrt(3), math.sqrt(10), 0])


def test_the_full_params_hold_the_papers_stages(raw_params: dict[str, Any]) -> None:
    """{lambda1, lambda2, lambda3} = {1, 1, 0} in stage one and {1, 1, 1} in stage two (3.5)."""
    params = parse_params(raw_params, "params.yaml").train
    one, two = (Objective.of_stage(params, with_mask) for with_mask in (False, True))
    assert (params.lambda1, params.lambda2) == (1, 1)
    assert (one.params, one.lambda3) == (params, 0)
    assert (two.params, two.lambda3) == (params, 1)
