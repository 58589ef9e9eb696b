"""Sampled reports, drawn and chosen as slow and plain code would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pycocoevalcap.cider.cider import Cider
from torch import Tensor

from tests import reference
from tests.conftest import decode_params
from tests.labelled_sentences import sentences
from uar.core.errors import UserError
from uar.core.special_words import BOS, EOS, PAD
from uar.data.text import Vocabulary
from uar.evaluation.clinical.labeller import Labeller
from uar.evaluation.clinical.labels import FINDINGS, Label
from uar.evaluation.clinical.sentences import AssertedFindings
from uar.evaluation.metrics import text_metrics
from uar.evaluation.pairwise import ngram_counts, pairwise_scores
from uar.inference.choice import Candidates, expected_utility, findings_gain
from uar.inference.decoding import Generated, generate, inverse_cdf, random_draws, sample
from uar.inference.writing import ReportWriter, in_effect, needs_findings
from uar.model.uar import UAR

MakeModel = Callable[..., UAR]
MakeVisual = Callable[..., Tensor]
SEED, LENGTH = 2, 7
VOCABULARY = Vocabulary(("a", "b", "c", "d", "e", "f", "g"))


def made(make_model: MakeModel, **switches: Any) -> UAR:
    """A model that looks at films or, for guidance, at none."""
    model = make_model(SEED, image_dropout=0.5, **switches)
    torch.nn.init.normal_(model.no_image, generator=torch.Generator().manual_seed(SEED))
    return model.double()


# ---- drawing


@pytest.mark.parametrize("guidance", [0.0, 1.5])
@pytest.mark.parametrize(
    "switches", [{}, {"tir": "predicted"}, {"findings": True}, {"visual_pool": 2}], ids=str
)
def test_samples_equal_the_reference(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any], guidance: float
) -> None:
    model = made(make_model, **switches)
    visual, draws = make_visual(model, 3), random_draws(5, 4, LENGTH)
    expected = reference.sample(model, visual, draws, 1.5, guidance)
    actual = sample(model, visual, draws, 1.5, guidance=guidance)
    assert [[g.ids for g in of] for of in actual] == [[g.ids for g in of] for of in expected]
    for of_actual, of_expected in zip(actual, expected, strict=True):
        for a, e in zip(of_actual, of_expected, strict=True):
            assert a.log_probability == pytest.approx(e.log_probability, abs=1e-4)
    texts = {tuple(g.ids) for of in actual for g in of}
    assert len(texts) > 1
    assert not {PAD, BOS, EOS} & {word for text in texts for word in text}


def test_samples_depend_on_no_other_study_and_on_no_number_of_samples(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    model = made(make_model)
    visual, draws = make_visual(model, 9), random_draws(0, 5, LENGTH)
    whole = sample(model, visual, draws, 1.0)
    parts = [of for part in visual.split(2) for of in sample(model, part, draws, 1.0)]
    backwards = sample(model, visual.flip(0), draws, 1.0)[::-1]
    for others in (parts, backwards):
        assert [[g.ids for g in of] for of in others] == [[g.ids for g in of] for of in whole]
    torch.testing.assert_close(random_draws(0, 3, LENGTH), draws[:3])
    fewer = sample(model, visual, draws[:3], 1.0)
    assert [[g.ids for g in of] for of in fewer] == [[g.ids for g in of[:3]] for of in whole]
    assert not torch.equal(random_draws(1, 5, LENGTH), draws)


def test_studies_of_the_same_films_have_the_same_samples(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    """So that what differs between reports is what the films tell, never the draws."""
    model = made(make_model)
    one = make_visual(model, 1)
    first, second = sample(model, one.expand(2, -1, -1), random_draws(0, 6, LENGTH), 1.0)
    assert [one.ids for one in first] == [one.ids for one in second]
    for one, other in zip(first, second, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


def test_a_low_temperature_is_greedy(make_model: MakeModel, make_visual: MakeVisual) -> None:
    model = made(make_model)
    visual = make_visual(model, 4)
    greedy = generate(model, visual, 1)
    for of_study, best in zip(
        sample(model, visual, random_draws(0, 3, LENGTH), 0.01), greedy, strict=True
    ):
        for one in of_study:
            assert one.ids == best.ids
            assert one.log_probability == pytest.approx(best.log_probability, abs=1e-4)


def test_words_are_drawn_as_often_as_they_are_likely() -> None:
    probabilities = torch.tensor([0.0, 0.1, 0.0, 0.6, 0.3])
    draws = torch.arange(1000) * (2**31 // 1000)  # evenly over [0, 1)
    words = inverse_cdf(probabilities.expand(3, -1), torch.arange(1000) % 3, draws)
    assert words.bincount(minlength=5).tolist() == pytest.approx([0, 100, 0, 600, 300], abs=1)
    ends = inverse_cdf(probabilities.expand(2, -1), torch.arange(2), torch.tensor([0, 2**31 - 1]))
    assert ends.tolist() == [1, 4]  # never a word of no probability


def test_draws_are_uniform_and_always_the_same() -> None:
    draws = random_draws(0, 500, 40)
    assert draws.dtype == torch.int64
    assert draws.min() >= 0
    assert draws.max() < 2**31
    assert float(draws.double().mean() / 2**31) == pytest.approx(0.5, abs=0.01)
    assert random_draws(0, 1, 3).tolist() == [[1367864807, 579362556, 87989972]]


# ---- expected utility


def some_texts(seed: int) -> list[str]:
    """Short texts of few words, a repeated one, one of a single word and an empty one."""
    generator = np.random.default_rng(seed)
    words = ["lungs", "are", "clear", "heart", "no", "."]
    texts = [" ".join(generator.choice(words, generator.integers(1, 14))) for _ in range(7)]
    return [*texts, texts[0], "clear", ""]


@pytest.mark.parametrize("seed", range(3))
def test_pairwise_scores_are_those_of_the_metrics(seed: int) -> None:
    texts = some_texts(seed)
    bleu, cider = pairwise_scores(texts)
    references = {i: [text] for i, text in enumerate(texts)}
    for i, candidate in enumerate(texts):
        same = {j: [candidate] for j in range(len(texts))}
        np.testing.assert_allclose(cider[i], Cider().compute_score(references, same)[1], atol=1e-9)
        for j, text in enumerate(texts):
            if text:
                metric = text_metrics([text], [candidate])["BLEU-4"]
                assert bleu[i, j] == pytest.approx(metric.of_each()[0])


def test_utility_is_the_mean_over_the_others() -> None:
    texts = some_texts(0)
    bleu, cider = pairwise_scores(texts)
    for i, found in enumerate(expected_utility(texts)):
        others = [bleu[i, j] + cider[i, j] / 10 for j in range(len(texts)) if j != i]
        assert found == pytest.approx(np.mean(others))
    assert int(expected_utility(["a b c d e", "a b c d f", "x y"]).argmax()) < 2
    assert not expected_utility(["", ""]).any()


def test_ngrams_are_counted_within_a_text() -> None:
    single, double, *_ = ngram_counts(["a b a b", "b a"])
    np.testing.assert_array_equal(single.counts, [[2, 2], [1, 1]])
    assert sorted(map(tuple, double.counts.T)) == [(1, 1), (2, 0)]  # b a; a b


# ---- findings


def test_sentences_together_assert_what_the_labeller_says_of_the_whole() -> None:
    """Sentences of the labeller's own tests, in texts as a model writes them."""
    generator = np.random.default_rng(0)
    said = [" ".join(s.lower().replace(".", " ").split()) for s in sentences()]
    texts = [
        " ".join(f"{said[i]} ." for i in generator.integers(0, len(said), generator.integers(0, 7)))
        for _ in range(150)
    ]
    texts += ["there is a large effusion", " . . ", "no effusion . effusion"]
    asserted = AssertedFindings()
    whole = Labeller().label(texts)[:, : len(FINDINGS)] == Label.POSITIVE
    np.testing.assert_array_equal(asserted(texts), whole)
    np.testing.assert_array_equal(asserted(texts[:5]), whole[:5])  # known by now
    assert asserted([]).shape == (0, len(FINDINGS))
    assert whole.any(axis=0).sum() > 8


def test_a_finding_counts_by_how_far_it_is_above_the_threshold() -> None:
    asserted = np.array([[True, True, False], [False, False, False], [False, True, True]])
    gains = findings_gain(asserted, np.array([0.9, 0.1, 0.4]), 0.25)
    np.testing.assert_allclose(gains, [0.65 - 0.15, 0, -0.15 + 0.15], atol=1e-12)


def test_the_weight_decides_between_utility_and_findings() -> None:
    samples = [Generated([word], 0.0) for word in range(3)]
    asserted = np.array([[False, False], [True, False], [False, True]])
    candidates = Candidates(samples, np.array([3.0, 2.0, 0.0]), asserted)
    likely = np.array([0.5, 0.9])
    assert candidates.best(0.0, 0.2) is samples[0]
    assert candidates.best(1.0, 0.2, likely) is samples[0]
    assert candidates.best(4.0, 0.2, likely) is samples[1]  # 2 + 1.2 > 3, 0 + 2.8
    assert candidates.best(100.0, 0.2, likely) is samples[2]
    assert candidates.best(100.0, 0.95, likely) is samples[0]  # nothing is likely enough to say
    equal = Candidates(samples, np.ones(3))
    assert equal.best(0.0, 0.0) is samples[0]


# ---- reports


def test_the_writer_chooses_the_best_of_the_samples(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    model = made(make_model)
    visual = make_visual(model, 5)
    decode = decode_params(choose="samples", samples=6, temperature=1.0, findings_weight=0.0)
    writer = ReportWriter(model, VOCABULARY, decode, seed=3)
    drawn = sample(model, visual, random_draws(3, 6, LENGTH), 1.0)
    expected = [
        of[int(expected_utility([VOCABULARY.decode(one.ids) for one in of]).argmax())]
        for of in drawn
    ]
    assert writer.write(visual, None) == expected
    assert expected != [of[0] for of in drawn]
    beams = ReportWriter(model, VOCABULARY, decode_params(beam_size=2, length_penalty=0.5))
    assert beams.write(visual, None) == generate(model, visual, 2, 0.5)
    weighed = ReportWriter(model, VOCABULARY, decode_params(choose="samples"))
    with pytest.raises(UserError, match="which the judge stage predicts"):
        weighed.write(visual, None)


def test_a_heavy_weight_writes_what_is_likely(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    """Words that name findings, and a study in which one of them is certain."""
    model = made(make_model)
    names = ("cardiomegaly", "clear", "effusion", "normal", "pneumothorax", "stable", ".")
    words = Vocabulary(tuple(sorted(names)))
    visual = make_visual(model, 4)
    decode = decode_params(
        choose="samples", samples=8, temperature=2.0, findings_weight=1000.0, findings_threshold=0.5
    )
    writer, asserted = ReportWriter(model, words, decode), AssertedFindings()
    none, one = np.zeros((4, len(FINDINGS))), np.zeros((4, len(FINDINGS)))
    finding = FINDINGS.index("Pleural Effusion")
    one[:, finding] = 1.0
    candidates = writer.candidates(visual, None, findings=True)
    often = []
    for probabilities in (none, one):
        written = writer.write(visual, None, probabilities)
        said = asserted([words.decode(report.ids) for report in written])
        for study, of_study in enumerate(candidates):
            assert of_study.asserted is not None
            # gains differ by halves, times 1000: no utility makes up for one
            best = findings_gain(of_study.asserted, probabilities[study], 0.5).max()
            assert findings_gain(said[[study]], probabilities[study], 0.5)[0] == best
        often.append(said[:, finding].sum())
    assert often[0] < often[1]


def test_settings_in_effect_are_those_that_count() -> None:
    beam = decode_params()
    kept = ["beam_size", "length_penalty", "guidance", "ensemble", "batch_size"]
    assert list(in_effect(beam)) == kept
    samples = decode_params(choose="samples")
    assert in_effect(samples) == samples.model_dump(mode="json")
    assert needs_findings(samples)
    assert not needs_findings(beam)
    assert not needs_findings(decode_params(choose="samples", findings_weight=0.0))
