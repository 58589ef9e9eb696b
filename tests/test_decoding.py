"""Decoding with caches and batches against decoding that passes every prefix anew."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import reference
from uar.core.special_words import BOS, EOS, PAD
from uar.inference.decoding import Generated, generate, random_draws, sample
from uar.inference.decoding import _compact_rows as compact_rows
from uar.inference.decoding import _regrouped as places_of
from uar.model.transformer import Cache, Rows
from uar.model.uar import UAR, Tables

MakeModel = Callable[..., UAR]
MakeVisual = Callable[..., Tensor]

VARIANTS: list[dict[str, Any]] = [
    {},
    {"tir": "predicted"},
    {"lsu": False},
    {"lsu": False, "integration": False, "tir": "none"},
    {"findings": True},
    {"visual_pool": 2},
]
variants = pytest.mark.parametrize("switches", VARIANTS, ids=str)
LENGTH = 7  # T of `make_model`
SEED = 2  # a model whose reports differ in words and length


@torch.no_grad()
def next_word(model: UAR, visual: Tensor, words: list[int]) -> list[float]:
    """Log-probabilities of the word after `words`, by the whole forward pass of one study."""
    report = torch.tensor([[BOS, *words, PAD]])
    return (
        reference.forward(model, visual.unsqueeze(0), report).logits[0, -1].log_softmax(-1).tolist()
    )


def assert_same(actual: list[Generated], expected: list[Generated]) -> None:
    assert [g.ids for g in actual] == [g.ids for g in expected]
    for a, e in zip(actual, expected, strict=True):
        assert a.log_probability == pytest.approx(e.log_probability, abs=1e-4)


def biased_to_end(model: UAR, by: float) -> UAR:
    with torch.no_grad():
        model.head.bias[EOS] += by
    return model


def rows_of_steps(model: UAR, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each step of `model` computes, from now on."""
    rows: list[int] = []
    step = model.step

    def counted(words: Tensor, tables: Tables, cache: Cache) -> Tensor:
        rows.append(len(words))
        return step(words, tables, cache)

    monkeypatch.setattr(model, "step", counted)
    return rows


@variants
@pytest.mark.parametrize("beams", [1, 3])
def test_cached_steps_equal_the_forward_pass(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any], beams: int
) -> None:
    model = make_model(SEED, **switches)
    visual = make_visual(model, 2)
    generator = torch.Generator().manual_seed(9)
    report = torch.randint(3, 11, (2 * beams, LENGTH + 1), generator=generator)
    report[:, 0] = BOS
    with torch.no_grad():
        expected = reference.forward(model, visual.repeat_interleave(beams, 0), report).logits
        tables = model.tables()
        cache = model.start(visual, beams, tables)
        for position in range(LENGTH):
            words = report[:, position].view(2, beams)
            actual = model.step(words, tables, cache)
            torch.testing.assert_close(
                actual.flatten(0, 1), expected[:, position], atol=2e-4, rtol=1e-4
            )
    probabilities = expected.softmax(-1)
    assert probabilities.amax(-1).mean() > 0.3  # not near uniform, so that the words matter
    assert (expected[0, 0] - expected[beams, 0]).abs().max() > 1e-3  # nor blind to the images


@variants
def test_beams_that_branch_and_studies_that_leave_take_their_past_along(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any]
) -> None:
    model = make_model(SEED, **switches)
    visual = make_visual(model, 4)
    words = torch.randint(3, 11, (4, 4, 2), generator=torch.Generator().manual_seed(4))
    parents = torch.tensor([[[0, 0], [1, 0], [1, 1], [0, 1]], [[1, 0], [0, 0], [0, 1], [1, 1]]])
    rows = torch.tensor([0, 3, 2])  # study 1 leaves, the last one takes its place
    with torch.no_grad():
        tables = model.tables()
        cache = model.start(visual, 2, tables)
        past = torch.full((4, 2, 1), BOS)
        for position in range(3):
            logits = model.step(past[..., -1], tables, cache)
            study = torch.arange(len(past)).repeat_interleave(2)
            images = visual if len(past) == 4 else visual[rows]
            report = torch.cat([past, torch.full_like(past[..., :1], PAD)], -1).flatten(0, 1)
            expected = reference.forward(model, images[study], report).logits[:, -1]
            torch.testing.assert_close(logits.flatten(0, 1), expected, atol=2e-4, rtol=1e-4)
            if position < 2:
                chosen = parents[position] if position == 0 else parents[position][rows]
                cache.branch(chosen)
                past = past.gather(1, chosen.unsqueeze(2).expand_as(past))
                past = torch.cat([past, words[: len(past), position].unsqueeze(2)], -1)
            if position == 0:
                cache.keep(rows.tolist(), [1])
                past = past[rows]


ROWS_THAT_GO_ON = [  # by position: the row that each continues
    [0, 0, 0, 1, 2, 2],
    [0, 2, 2, 4, 4, 5],  # rows 1 and 3, the only one of study 1, have ended
    [1, 1, 1, 1],  # study 2 has none left
]


@variants
def test_rows_that_part_and_end_take_their_past_along(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any]
) -> None:
    model = make_model(SEED, **switches)
    visual = make_visual(model, 3)
    generator = torch.Generator().manual_seed(4)
    study, films = torch.arange(3), torch.arange(3)  # of each row; of each study that is left
    past = torch.full((3, 1), BOS)
    with torch.no_grad():
        tables = model.tables()
        cache = model.start(visual, 3, tables, branching=False)
        for parents in (*map(torch.tensor, ROWS_THAT_GO_ON), None):
            logits = model.step(past[:, -1], tables, cache)
            report = torch.cat([past, torch.full_like(past[:, :1], PAD)], 1)
            expected = reference.forward(model, visual[films[study]], report).logits[:, -1]
            torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)
            if parents is None:
                break
            slots, origins, places = places_of(parents)
            before, past = past, torch.empty(len(parents), past.shape[1] + 1, dtype=torch.int64)
            words = torch.randint(3, 11, (len(parents), 1), generator=generator)
            past[slots] = torch.cat([before[parents], words], 1)
            former, study = study, torch.empty_like(parents)
            study[slots] = former[parents]
            stay = [bool((study == one).any()) for one in range(len(films))]
            if not all(stay):
                kept, moved = compact_rows(stay)
                cache.keep(kept, moved)
                films, study = films[kept], torch.tensor([kept.index(one) for one in study])
            cache.regroup(origins, places, Rows.of(study))
    assert len(films) == 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_rows_are_copied_where_they_part_alone(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 8))
    chosen = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=12))
    parents = torch.tensor(sorted(chosen))
    slots, origins, places = places_of(parents)
    assert sorted(slots.tolist()) == list(range(len(parents)))
    kept = torch.arange(12)
    kept[places] = kept[origins]
    assert kept[slots].tolist() == parents.tolist()
    staying = {row for row in chosen if row < len(parents)}
    assert len(places) == len(parents) - len(staying)


def test_samples_that_are_alike_are_computed_once_and_ended_ones_no_more(
    make_model: MakeModel, make_visual: MakeVisual, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = biased_to_end(make_model(SEED), by=1.0)
    visual = make_visual(model, 5)
    draws = random_draws(0, 20, LENGTH)
    rows = rows_of_steps(model, monkeypatch)
    texts = [[one.ids for one in of_study] for of_study in sample(model, visual, draws, 0.7)]
    needed = [  # prefixes of this length that went on, of each study
        sum(len({tuple(ids[:length]) for ids in of_study if len(ids) >= length})
            for of_study in texts)
        for length in range(LENGTH)
    ]  # fmt: skip
    assert rows == [count for count in needed if count]
    assert rows[0] == 5
    assert max(rows) < 100


@variants
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("beams", [1, 3, 5])
def test_generated_reports_equal_the_reference(
    make_model: MakeModel,
    make_visual: MakeVisual,
    switches: dict[str, Any],
    beams: int,
    length_penalty: float,
) -> None:
    model = biased_to_end(make_model(SEED, **switches), by=1.0).double()
    visual = make_visual(model, 6)
    visual = visual if model.params.lsu else visual.double()
    expected = reference.generate(model, visual, beams, length_penalty)
    assert_same(generate(model, visual, beams, length_penalty), expected)


@pytest.mark.parametrize("guidance", [0.5, 3.0])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("switches", [{}, {"findings": True}, {"tir": "predicted"}], ids=str)
def test_guided_reports_equal_the_reference(
    make_model: MakeModel,
    make_visual: MakeVisual,
    switches: dict[str, Any],
    beams: int,
    guidance: float,
) -> None:
    model = biased_to_end(make_model(SEED, image_dropout=0.5, **switches), by=1.0).double()
    torch.nn.init.normal_(model.no_image, generator=torch.Generator().manual_seed(SEED))
    for layer in model.decoder.layers:  # what a beam has said weighs, without films too
        torch.nn.init.normal_(layer.self_attention.value.weight, std=1.0)
        torch.nn.init.normal_(layer.self_attention.output.weight, std=1.0)
    visual = make_visual(model, 6)
    expected = reference.generate(model, visual, beams, 1.0, guidance)
    guided = generate(model, visual, beams, 1.0, guidance=guidance)
    assert_same(guided, expected)
    assert [g.ids for g in guided] != [g.ids for g in generate(model, visual, beams, 1.0)]


def test_the_encoder_gives_the_same_in_blocks(
    make_model: MakeModel, make_visual: MakeVisual, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(SEED).double()
    visual = make_visual(model, 5)
    present = torch.tensor([[True, True], [True, False], [False, True], [True, True], [True, True]])
    report = torch.full((5, LENGTH + 1), BOS)
    sizes: list[int] = []
    layer = model.encoder.layers[0]
    layer.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    with torch.no_grad():
        whole = model(visual, report, present).logits
        hidden = visual[0].numel() * model.params.d_ff  # values of a study
        monkeypatch.setattr("uar.model.transformer._IN_CACHE", 2 * hidden)
        blocks = model(visual, report, present).logits
    assert sizes == [5, 2, 2, 1]
    torch.testing.assert_close(blocks, whole)
    model(visual, report, present)
    assert sizes[4:] == [5]  # with gradients, whole


def test_tables_made_once_serve_every_batch(
    make_model: MakeModel, make_visual: MakeVisual, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(SEED)
    visual = make_visual(model, 6)
    expected = generate(model, visual, 3)
    tables = model.tables()
    monkeypatch.setattr(model.aligner, "forward", None)  # nothing is aligned again
    batches = [generate(model, part, 3, tables=tables) for part in visual.split(2)]
    assert_same([one for batch in batches for one in batch], expected)


def test_more_beams_find_likelier_reports(make_model: MakeModel, make_visual: MakeVisual) -> None:
    """So the test above compares something that greedy decoding would not pass."""
    model = biased_to_end(make_model(SEED), by=1.0)
    visual = make_visual(model, 12)
    one, three = generate(model, visual, 1), generate(model, visual, 3)
    assert [g.ids for g in one] != [g.ids for g in three]
    assert sum(g.log_probability for g in three) > sum(g.log_probability for g in one)


@variants
@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_equals_its_studies_alone(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any], beams: int
) -> None:
    """Studies that end early leave the batch without a trace in the others."""
    model = biased_to_end(make_model(SEED, **switches), by=1.0)
    visual = make_visual(model, 16)
    batched = generate(model, visual, beams, 0.7)
    single = [generate(model, study.unsqueeze(0), beams, 0.7)[0] for study in visual]
    assert_same(batched, single)


@pytest.mark.parametrize("beams", [1, 3])
def test_finished_studies_leave_the_batch(
    make_model: MakeModel,
    make_visual: MakeVisual,
    monkeypatch: pytest.MonkeyPatch,
    beams: int,
) -> None:
    model = biased_to_end(make_model(SEED), by=1.0)
    visual = make_visual(model, 16)
    rows = rows_of_steps(model, monkeypatch)
    lengths = {len(g.ids) for g in generate(model, visual, beams)}
    assert len(lengths) > 1
    assert rows[0] == 16
    assert rows[-1] < 16
    assert rows == sorted(rows, reverse=True)


def test_decoding_stops_when_every_report_has_ended(
    make_model: MakeModel, make_visual: MakeVisual, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = biased_to_end(make_model(SEED), by=1e3)
    visual = make_visual(model, 3)
    rows = rows_of_steps(model, monkeypatch)
    assert [g.ids for g in generate(model, visual, beam_size=1)] == [[], [], []]
    assert rows == [3]  # one step


@pytest.mark.parametrize("beams", [1, 3])
def test_log_probability_is_that_of_the_words_and_the_end(
    make_model: MakeModel, make_visual: MakeVisual, beams: int
) -> None:
    model = make_model(SEED)
    visual = make_visual(model, 12)
    generated = generate(model, visual, beams)
    assert {len(g.ids) == LENGTH for g in generated} == {True, False}  # without and with an end
    for study, one in zip(visual, generated, strict=True):
        said = one.ids if len(one.ids) == LENGTH else [*one.ids, EOS]
        terms = [next_word(model, study, said[:t])[word] for t, word in enumerate(said)]
        assert one.log_probability == pytest.approx(sum(terms), abs=1e-3)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_report_has_at_most_t_words(
    make_model: MakeModel, make_visual: MakeVisual, beams: int
) -> None:
    model = biased_to_end(make_model(SEED), by=-1e3)
    for one in generate(model, make_visual(model, 4), beams):
        assert len(one.ids) == LENGTH
        assert not {PAD, BOS, EOS} & set(one.ids)


# ---- length penalty

SHORT, LONG, MORE = 4, 5, 6
NEXT_WORD = {  # probabilities of the word after each word
    BOS: {SHORT: 0.6, LONG: 0.4},
    SHORT: {EOS: 0.5, SHORT: 0.25, LONG: 0.25},
    LONG: {MORE: 0.7, EOS: 0.3},
    MORE: {EOS: 0.9, SHORT: 0.1},
}


def chain_model() -> Any:
    """A stand-in for UAR whose next word depends on the last one alone, as `NEXT_WORD` says."""
    table = torch.full((7, 7), -1e4)
    for word, following in NEXT_WORD.items():
        for next_word_, probability in following.items():
            table[word, next_word_] = math.log(probability)
    return SimpleNamespace(
        device=table.device,
        sizes=SimpleNamespace(max_length=5),
        tables=lambda: Tables(image=None, words=torch.eye(7)),
        start=lambda visual, texts, *_: Cache([], texts, torch.empty(1, 1, texts, 0), None),
        step=lambda words, tables, cache: tables.words[words] @ table,
    )


def test_the_length_penalty_weighs_words_against_probability() -> None:
    """`short <end>`, 0.3, beats `long more <end>`, 0.252, by the whole; not by the mean word."""
    visual = torch.zeros(1, 1)
    [by_whole] = generate(chain_model(), visual, 3, length_penalty=0.0)
    [by_mean] = generate(chain_model(), visual, 3, length_penalty=1.0)
    assert by_whole.ids == [SHORT]
    assert by_whole.log_probability == pytest.approx(math.log(0.6 * 0.5), abs=1e-5)
    assert by_mean.ids == [LONG, MORE]
    assert by_mean.log_probability == pytest.approx(math.log(0.4 * 0.7 * 0.9), abs=1e-5)
    assert math.log(0.3) / 2 < math.log(0.252) / 3  # the end token counts
