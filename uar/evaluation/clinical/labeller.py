"""A rule-based labeller: phrases by spaCy's Matcher, their context by NegEx (negspacy)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import spacy
from negspacy.negation import Negex
from spacy.matcher import Matcher
from spacy.tokens import Doc, Span
from spacy.vocab import Vocab

from uar.evaluation.clinical.labels import NO_FINDING, OBSERVATIONS, Label
from uar.evaluation.clinical.phrases import (
    ABSENCES,
    BARRIERS,
    CONTRASTS,
    GROUPS,
    MENTIONS,
    NEGATION,
    OTHERS,
    UNCERTAINTY,
    UNSTATED,
)

_PRECEDENCE = (Label.POSITIVE, Label.UNCERTAIN, Label.NEGATIVE, Label.BLANK)
_GAP = 6  # words
_PIECES = re.compile(
    r"""
    (?P<word> (?<!\.)[A-Za-z]+(?![A-Za-z'’]) )
    | (?P<can_not> (?i: (?<=ca)n['’]t\b ) )
    | (?P<not> (?i: (?<=[a-z])n['’]t\b ) )
    | (?P<possible> (?<![^\s(])\?\s?(?=[A-Za-z])(?!No\b|The) )  # "? pneumonia"
    | (?P<colon> \s[-–—]+\s(?i: (?=(?:none|nil|absent|negative)\b | no\s*(?:[.;\n]|$)) ) )
    | (?P<joined> (?i: (?<=\bnon)[-\s](?=[a-z]) ) )             # "non-displaced"
    | (?P<stop>                               # what ends a sentence without being a full stop
        \.\s*(?:\.\s*)+ | … | [—|•·▪‣\t] | --+
        | (?<=\s)[-–]{1,3}(?=\s|[A-Z]) | (?<=\s)\*
        | (?<=\s)\d{1,2}[.)](?=\s) | \(\d\)
        | \n[^\S\n]*(?=[A-Z][a-z]|\n)       # a blank line, or one that opens like a sentence
    )
    | (?P<blank> [^\S\n\t]+ | [-/\n]
        | (?<=[A-Za-z]\.)(?=[A-Z][a-z]) | (?<=[A-Za-z]{2}\.)(?=[A-Za-z]{2}) )  # "clear.The"
    | (?P<kept> . )
    """,
    re.VERBOSE,
)
_WRITTEN = {
    "stop": " . ", "can_not": "n not", "not": " not", "possible": "possible ", "colon": " : ",
    "joined": "",
}  # fmt: skip
# any of these before "normal" or "clear" says that it is not
_DENIED = frozenset(["not", "than", "above", "beyond", "longer", "never", "abnormal"])
_SPANS = "observations"


class Mention(NamedTuple):
    """What a report says of an observation, and where."""

    observation: str  # of CheXpert's 14
    label: Label  # what this one mention says of it
    start: int  # character positions in the report
    end: int


class Labeller:
    """Labels reports with CheXpert's 14 observations.

    A report asserts an observation if any mention does; else it is uncertain if any mention is;
    else negative if any is negated or says it is absent. `No Finding` is positive when nothing but
    support devices is positive or uncertain.

    Args:
        also: phrases of further findings for `mentions`, written as in `phrases.MENTIONS`.
    """

    def __init__(self, also: Mapping[str, str] | None = None) -> None:
        self._nlp = spacy.blank("en")
        self._nlp.add_pipe("sentencizer", config={"punct_chars": [".", "!", "?", ";"]})
        self._contexts = [
            Negex(self._nlp, name, terms, extension_name=name, span_keys=[_SPANS])
            for name, terms in (
                ("negated", NEGATION), ("uncertain", UNCERTAINTY), ("unstated", UNSTATED)
            )
        ]  # fmt: skip
        vocab = self._nlp.vocab
        self._mentions = _Phrases(vocab, {**MENTIONS, **(also or {})})
        self._absences = _Phrases(vocab, ABSENCES)
        self._contrasts = _Phrases(vocab, {"contrast": CONTRASTS})
        self._others = {name: _Phrases(vocab, {name: listed}) for name, listed in OTHERS.items()}

    def label(self, reports: Iterable[str]) -> np.ndarray:
        """Labels `(N, 14)` int8 of N reports, values of `Label`, columns as `OBSERVATIONS`."""
        rows = [_labels(mentions) for mentions in self.mentions(reports)]
        return np.array(rows, np.int8).reshape(-1, len(OBSERVATIONS))

    def mentions(self, reports: Iterable[str]) -> Iterator[list[Mention]]:
        """The mentions that decide each report's labels."""
        normalised = (_normalised(report) for report in reports)
        for doc, places in self._nlp.pipe(normalised, as_tuples=True):
            yield [
                Mention(span.label_, label, places[span.start_char], places[span.end_char - 1] + 1)
                for span, label in self._labelled_spans(doc)
            ]

    def _labelled_spans(self, doc: Doc) -> list[tuple[Span, Label]]:
        spans = self._mentions.spans(doc)
        for name in {span.label_ for span in spans} & self._others.keys():
            others = self._others[name].spans(doc)
            spans = [s for s in spans if not any(_within(s, other) for other in others)]
        doc.spans[_SPANS] = spans
        for contrast in self._contrasts.spans(doc):  # no cue before it reaches the finding
            doc[contrast.end - 1].is_sent_start = True
        for context in self._contexts:
            context(doc)
        found = []
        for span in spans:
            if span._.unstated:
                continue
            label = Label.UNCERTAIN if span._.uncertain else Label.POSITIVE
            found.append((span, Label.NEGATIVE if span._.negated else label))
        return found + [
            (span, Label.NEGATIVE)
            for span in self._absences.spans(doc)
            if not any(word.text in _DENIED for word in doc[max(0, span.start - 2) : span.start])
        ]


def _labels(mentions: Iterable[Mention]) -> list[Label]:
    """A report's label for each of `OBSERVATIONS`."""
    found = {name: {Label.BLANK} for name in OBSERVATIONS}
    for mention in mentions:
        if mention.observation in found:
            found[mention.observation].add(mention.label)
    labels = {name: min(found[name], key=_PRECEDENCE.index) for name in OBSERVATIONS}
    said = {labels[name] for name in OBSERVATIONS if name not in ("Support Devices", NO_FINDING)}
    if not said & {Label.POSITIVE, Label.UNCERTAIN}:
        labels[NO_FINDING] = Label.POSITIVE
    return [labels[name] for name in OBSERVATIONS]


def _normalised(report: str) -> tuple[str, list[int]]:
    """Lower a report's case and write hyphens and slashes as spaces, all that ends a sentence as
    full stops, "n't" as "not" and a question mark before a word as "possible".

    Also return each character's place in the report.
    """
    pieces: list[str] = []
    places: list[int] = []
    for match in _PIECES.finditer(report):
        kind = str(match.lastgroup)
        if kind == "word":
            pieces.append(match[0].lower())
            places += range(match.start(), match.end())
            continue
        if kind == "kept":
            piece = match[0].lower()
        elif kind == "blank":
            piece = "" if pieces and pieces[-1].endswith(" ") else " "
        else:
            piece = _WRITTEN[kind]
        pieces.append(piece)
        places += [match.start()] * len(piece)
    return "".join(pieces), places


class _Phrases:
    """The phrases of several observations, as `uar.evaluation.clinical.phrases` writes them."""

    def __init__(self, vocab: Vocab, listed: Mapping[str, str]) -> None:
        self._matcher = Matcher(vocab)
        self._findings: dict[str, tuple[str, int]] = {}  # key to observation, length of finding
        for observation, phrases in listed.items():
            for phrase in re.split(r"[,\n]\s*", phrases.strip()):
                key = f"{observation}: {phrase}"
                self._matcher.add(key, [[_token(word) for word in phrase.split()]])
                self._findings[key] = observation, len(phrase.rpartition("~")[2].split())

    def spans(self, doc: Doc) -> list[Span]:
        """The findings in `doc`, labelled by observation."""
        spans = []
        for match in self._matcher(doc, as_spans=True):
            observation, words = self._findings[match.label_]
            spans.append(Span(doc, match.end - words, match.end, label=observation))
        return spans


def _token(word: str) -> dict[str, Any]:
    """One word of a phrase in the Matcher's terms."""
    if word == "~":
        return {"LOWER": {"NOT_IN": list(BARRIERS)}, "IS_PUNCT": False, "OP": f"{{,{_GAP}}}"}
    if word in GROUPS:
        return {"LOWER": {"REGEX": f"^(?:{GROUPS[word]})$"}}
    if word.endswith("*"):
        return {"LOWER": {"REGEX": f"^{re.escape(word[:-1])}"}}
    return {"LOWER": word}


def _within(span: Span, other: Span) -> bool:
    return span.label_ == other.label_ and other.start <= span.start and span.end <= other.end
