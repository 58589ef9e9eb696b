"""Report cleaning against cases worked by hand from its rules, and the vocabulary."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import dataset_params
from uar.core.errors import UserError
from uar.core.special_words import BOS, EOS, PAD, UNK
from uar.data.readers import read_dataset
from uar.data.text import Vocabulary, clean_iu_xray, clean_mimic_cxr, has_words


@pytest.mark.parametrize(
    ("report", "cleaned"),
    [
        # The rules' three traps.
        ("T11. There is <5 mm; no A/P", "t1there is 5 mm no ap ."),
        ("lungs.No", "lungsno ."),
        ("rib 4. The", "rib . the ."),
        # A plain report.
        ("The heart is normal. No effusion.", "the heart is normal . no effusion ."),
        # The last stop goes with its sentence, the closing one is always added.
        ("Clear lungs", "clear lungs ."),
        ("Clear lungs. ", "clear lungs ."),
        # Enumerations 1 to 5 go; 6 is a sentence of its own.
        ("1. Clear lungs. 2. No effusion.", "clear lungs . no effusion ."),
        ("1. A. 2. B. 3. C. 4. D. 5. E. 6. F.", "a . b . c . d . e . 6 . f ."),
        ("Clear lungs 2. No effusion", "clear lungs . no effusion ."),
        # Runs of stops collapse: three rounds of halving.
        ("clear.. No effusion", "clear . no effusion ."),
        ("clear.... No effusion", "clear . no effusion ."),
        ("clear..... No effusion", "clear . no effusion ."),
        # Quotes and slashes vanish and join what they part.
        ('the "heart" is patient\'s', "the heart is patients ."),
        ("and/or a\\b", "andor ab ."),
        # Hyphens stay, and with them the dates and ranges that hold them.
        ("follow-up x-ray of 3-4 mm", "follow-up x-ray of 3-4 mm ."),
        # The range :-[ takes < = > @ with it; # $ | ~ ` are in no rule.
        ("a<b=c>d@e", "abcde ."),
        ("a#b$c|d~e`f", "a#b$c|d~e`f ."),
        (".,?;*!%^&_+():[]{}x", "x ."),
        # An empty sentence keeps its stop.
        ("a. . b", "a .  . b ."),
    ],
)
def test_iu_xray_cleaning(report: str, cleaned: str) -> None:
    assert clean_iu_xray(report) == cleaned


def test_cleaning_deletes_exactly_these_characters() -> None:
    for clean in (clean_iu_xray, clean_mimic_cxr):
        deleted = {c for c in string.punctuation if clean(f"a{c}b") == "ab ."}
        assert deleted == set(".,?;*!%^&_+():<=>@[]{}\"'/\\")


@pytest.mark.parametrize(
    ("report", "cleaned"),
    [
        ("The heart\nis normal.\n\nNo effusion.", "the heart is normal . no effusion ."),
        ("tube      in   place", "tube in place ."),
        ("clear........ No effusion", "clear . no effusion ."),
        # The mark of an anonymised word goes, its blanks stay.
        ("Compared to ___ , the ____ lung is clear", "compared to   the  lung is clear ."),
        # Words with a hyphen or a number stay, as in R2Gen: ":-[" is a range without the hyphen.
        ("Right-sided PICC", "right-sided picc ."),
        ("left-sided port-a-cath", "left-sided port-a-cath ."),
        ("well-expanded, re-demonstrated", "well-expanded re-demonstrated ."),
        ("a 5 mm nodule at T11 on follow-up", "a 5 mm nodule at t11 on follow-up ."),
        ("3-4 mm; 9:15", "3-4 mm 915 ."),
        ("non-displaced - old - fracture", "non-displaced - old - fracture ."),
        ("---", "--- ."),
        ("AP/PA x-ray", "appa x-ray ."),
        ("<right-sided> @left-sided [=mid-lung]", "right-sided left-sided mid-lung ."),
        ("Opacity. 12. Clear", "opacity . 12 . clear ."),
        # Letters with marks, and marks in no rule.
        ("d\u00e9j\u00e0-vu", "d\u00e9j\u00e0-vu ."),
        ("a#b $5 ~3 `x` a|b", "a#b $5 ~3 `x` a|b ."),
    ],
)
def test_mimic_cxr_cleaning(report: str, cleaned: str) -> None:
    assert clean_mimic_cxr(report) == cleaned


@pytest.mark.parametrize("side", ["right", "left", "one", "two"])
@pytest.mark.parametrize("rest", ["sided", "lower-lobe", "2"])
def test_a_hyphenated_word_reaches_the_vocabulary_whole(side: str, rest: str) -> None:
    word = f"{side}-{rest}"
    for clean in (clean_iu_xray, clean_mimic_cxr):
        assert clean(f"{word.capitalize()} effusion.").split() == [word, "effusion", "."]
        assert word in Vocabulary.build([clean(f"A {word} line.")], min_count=1).words


def test_only_mimic_cxr_joins_lines() -> None:
    assert clean_iu_xray("heart\nnormal") == "heart\nnormal ."
    assert clean_mimic_cxr("heart\nnormal") == "heart normal ."


def test_a_report_of_stops_has_no_words() -> None:
    assert not has_words(clean_iu_xray("..., !"))
    assert has_words(clean_iu_xray("normal"))


REPORTS = ["no effusion .", "no focal effusion .", "no pneumothorax ."]


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.build(REPORTS, min_count=2)


def test_vocabulary_is_alphabetical_and_counts_every_occurrence(vocabulary: Vocabulary) -> None:
    assert vocabulary.words == (".", "effusion", "no")
    assert Vocabulary.build(REPORTS, 3).words == (".", "no")
    assert Vocabulary.build(["twice twice"], 2).words == ("twice",)
    assert Vocabulary.build(REPORTS, 1).words == (".", "effusion", "focal", "no", "pneumothorax")
    assert len(vocabulary) == 4 + 3


def test_no_frequent_word_is_an_error() -> None:
    with pytest.raises(UserError, match="no word occurs 9 times.*Lower vocabulary.min_count"):
        Vocabulary.build(REPORTS, 9)


def test_encode_frames_and_pads(vocabulary: Vocabulary) -> None:
    row = vocabulary.encode("no focal effusion .", max_length=7)
    # "." is 4, "effusion" 5, "no" 6; "focal" is unknown.
    assert row.tolist() == [BOS, 6, UNK, 5, 4, EOS, PAD, PAD]
    assert row.dtype == np.int64


@pytest.mark.parametrize(
    ("max_length", "expected"),
    [
        (5, [BOS, 6, UNK, 5, 4, EOS]),  # four words and the end token fit exactly
        (4, [BOS, 6, UNK, 5, EOS]),
        (2, [BOS, 6, EOS]),
    ],
)
def test_encode_keeps_the_end_token_within_max_length(
    vocabulary: Vocabulary, max_length: int, expected: list[int]
) -> None:
    assert vocabulary.encode("no focal effusion .", max_length).tolist() == expected


def test_decode_stops_at_the_end(vocabulary: Vocabulary) -> None:
    assert vocabulary.decode([BOS, 6, UNK, 5, 4, EOS, 6, 6]) == "no <unk> effusion ."
    assert vocabulary.decode([6, PAD, 5]) == "no"
    assert vocabulary.decode([EOS]) == ""
    assert vocabulary.decode(vocabulary.encode("no effusion .", 10)) == "no effusion ."


def test_reports_are_restricted_to_what_a_model_can_write(vocabulary: Vocabulary) -> None:
    cleaned = ["no focal effusion .", "no effusion ."]
    assert vocabulary.restricted(cleaned, max_length=4) == ["no <unk> effusion", "no effusion ."]


def test_vocabulary_survives_its_file(vocabulary: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    vocabulary.save(path)
    loaded = Vocabulary.load(path)
    assert loaded == vocabulary
    assert loaded.encode("no focal effusion .", 9).tolist() == (
        vocabulary.encode("no focal effusion .", 9).tolist()
    )


def test_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vocabulary.json is missing"):
        Vocabulary.load(tmp_path / "vocabulary.json")


def test_iu_xray_vocabulary_counts(iu_xray: Path) -> None:
    params = dataset_params("iu_xray", iu_xray)
    training = [
        clean_iu_xray(study.report)
        for study in read_dataset(params).studies
        if study.split == "train"
    ]
    assert len(Vocabulary.build(training, min_count=3).words) == 759
    assert len(Vocabulary.build(training, min_count=4).words) == 651
