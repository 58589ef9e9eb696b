"""Reports as words: the cleaning that the compared papers share, and the vocabulary V_R.

The cleaning rules reproduce R2Gen's (https://github.com/zhjohnchan/R2Gen), its quirks included,
because every published number was computed on text cleaned this way.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from uar.core.errors import UserError
from uar.core.files import read_json, write_json
from uar.core.special_words import BOS, EOS, PAD, SPECIAL_WORDS, UNK

# ":-[" is a range (0x3A-0x5B): it deletes < = > @ and keeps the hyphen.
_DELETED = re.compile(r"[.,?;*!%^&_+():-\[\]{}]")
_QUOTES_AND_SLASHES = str.maketrans("", "", "\"/\\'")


def clean_iu_xray(report: str) -> str:
    """Lower-case words with " . " between sentences and " ." at the end (IU X-Ray rules)."""
    return _clean(_replace(report, [("..", ".")] * 3))


def clean_mimic_cxr(report: str) -> str:
    """Clean as `clean_iu_xray` does, after undoing MIMIC-CXR's line breaks and anonymisation marks.

    Hyphenated words and numbers stay, as in R2Gen; section 4.1 removes non-alphabetic tokens.
    """
    unmarked = [("\n", " "), *[("__", "_")] * 7, *[("  ", " ")] * 6, *[("..", ".")] * 8]
    return _clean(_replace(report, unmarked))


CLEANERS: dict[Literal["iu_xray", "mimic_cxr"], Callable[[str], str]] = {
    "iu_xray": clean_iu_xray,
    "mimic_cxr": clean_mimic_cxr,
}


def _replace(text: str, replacements: list[tuple[str, str]]) -> str:
    for old, new in replacements:
        text = text.replace(old, new)
    return text


def _clean(text: str) -> str:
    enumeration = [("1. ", "")]
    enumeration += [(f". {n}. ", ". ") for n in range(2, 6)]
    enumeration += [(f" {n}. ", ". ") for n in range(2, 6)]
    sentences = _replace(text, enumeration).strip().lower().split(". ")
    return " . ".join(_clean_sentence(sentence) for sentence in sentences) + " ."


def _clean_sentence(sentence: str) -> str:
    return _DELETED.sub("", sentence.translate(_QUOTES_AND_SLASHES).strip().lower())


def has_words(cleaned: str) -> bool:
    """Whether a cleaned report has anything other than full stops."""
    return any(word != "." for word in cleaned.split())


@dataclass(frozen=True)
class Vocabulary:
    """The words that a report may use; their ids follow those of the four special words."""

    words: tuple[str, ...]

    @classmethod
    def build(cls, reports: Iterable[str], min_count: int) -> Vocabulary:
        """Keep, in alphabetical order, the words that occur at least `min_count` times."""
        counts = Counter(word for report in reports for word in report.split())
        kept = sorted(word for word, count in counts.items() if count >= min_count)
        if not kept:
            raise UserError(
                f"no word occurs {min_count} times or more in the training reports. "
                "Lower vocabulary.min_count."
            )
        return cls(tuple(kept))

    def __post_init__(self) -> None:
        ids = {word: i for i, word in enumerate(SPECIAL_WORDS + self.words)}
        object.__setattr__(self, "_ids", ids)

    def __len__(self) -> int:
        """Number of ids: the words and the special ones."""
        return len(SPECIAL_WORDS) + len(self.words)

    def fingerprint(self) -> str:
        """SHA-256 of the words in their order: models with equal fingerprints may be mixed."""
        return hashlib.sha256("\n".join(SPECIAL_WORDS + self.words).encode()).hexdigest()

    def encode(self, report: str, max_length: int) -> np.ndarray:
        """Ids of a cleaned report, `(max_length + 1,)` int64: BOS, words, EOS, padding.

        As in R2Gen, at most `max_length - 1` words stay, so that the end token is within
        `max_length`.
        """
        ids: dict[str, int] = self._ids  # type: ignore[attr-defined]
        words = [ids.get(word, UNK) for word in report.split()[: max_length - 1]]
        row = np.full(max_length + 1, PAD, dtype=np.int64)
        row[: len(words) + 2] = [BOS, *words, EOS]
        return row

    def restricted(self, reports: Iterable[str], max_length: int) -> list[str]:
        """Cleaned reports as a model can write them: cut as by `encode`, rare words as `<unk>`."""
        return [self.decode(self.encode(report, max_length).tolist()) for report in reports]

    def decode(self, ids: Iterable[int]) -> str:
        """The words up to the first EOS or PAD, joined by spaces."""
        words: list[str] = []
        for i in ids:
            if i in (EOS, PAD):
                break
            if i != BOS:
                words.append("<unk>" if i == UNK else self.words[i - len(SPECIAL_WORDS)])
        return " ".join(words)

    def save(self, path: Path) -> None:
        """Write vocabulary.json."""
        write_json(path, {"special_words": SPECIAL_WORDS, "words": self.words})

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read vocabulary.json.

        Raises:
            UserError: the file is absent or holds no list of words.
        """
        raw = read_json(path)
        words = raw.get("words") if isinstance(raw, dict) else None
        if not isinstance(words, list) or not all(map(_is_word, words)):
            raise UserError(f"{path} does not hold a list of words. {_REMEDY}")
        if len({*SPECIAL_WORDS, *words}) < len(SPECIAL_WORDS) + len(words):
            raise UserError(f"{path} holds a word twice. {_REMEDY}")
        return cls(tuple(words))


def _is_word(word: object) -> bool:
    return isinstance(word, str) and _WORD.fullmatch(word) is not None


_WORD = re.compile(r"[^\s\ud800-\udfff]+")  # no white space, no half of a surrogate pair
_REMEDY = "`dvc repro` makes it again; `dvc pull` fetches it."
