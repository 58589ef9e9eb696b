"""Split a radiology report, raw or generated, into its sections.

`read_sections` follows the documentation of the section parser in the MIMIC code repository
(https://github.com/MIT-LCP/mimic-cxr):

- A header is at the start of a line and ends with a colon. Spellings are normalised.
- If a section occurs twice, the last one counts.
- A heading that names films (PA AND LATERAL CHEST:) stands for FINDINGS if there are none.
- FINDINGS AND IMPRESSION is an impression.

These rules differ from that parser:

- Known headers are recognised in upper and lower case, after a full stop, and in Markdown.
- An unknown header in capitals (LINES AND TUBES:) is a subheading within FINDINGS, and the name of
  an organ is one in any section. Otherwise it ends the section before it.
- Within a line, a header in capitals ends the section before it.
- If FINDINGS is empty, the texts under all headings of films are joined to replace it.
- Notes about the report itself, at the end of a section, are dropped. If the last paragraph also
  says something else, only the note is dropped.
- A report without headers has no sections: its last paragraph is not taken as one, and there are
  no rules for individual reports.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

_LONGEST_HEADER = 80  # characters
_HEADER_CHARACTERS = frozenset(string.ascii_letters + " ()/,&-")
_JOINT = "findings+impression"
_FILMS = "films"
_OTHER = "other"
_UNKNOWN = "unknown"

_OTHER_NAMES = """
    addendum, attending, cc, clinical history, clinical indication, clinical information
    comparison, comparison exam, comparison study, comparisons, critical results
    dictated by, dose, electronically signed by, exam, examination, final report, history
    indication, indications, notification, patient history, preliminary report, procedure
    reason for exam, reason for examination, recommendation, recommendation(s)
    recommendations, reference exam, signed by, technique, type of examination, wet read
"""
_KNOWN: dict[str, Sequence[str]] = {
    "findings": ("findings", "finding", "chest findings", "radiographic findings"),
    "impression": ("impression", "impressions", "conclusion", "conclusions"),
    _JOINT: (
        "findings and impression",
        "findings and impressions",
        "findings and conclusion",
        "findings/impression",
        "findings & impression",
        "findings / impression",
    ),
    _OTHER: re.split(r"[,\n]\s*", _OTHER_NAMES.strip()),
}
_OTHER_WORDS = ("exam", "technique", "comparison", "indication", "history")
_SECTION_OF = {name: section for section, names in _KNOWN.items() for name in names}
# Words in a heading of films, and in a heading of what is seen on them.
_FILM_WORDS = """
    ap bone chest frontal lateral pa portable radiograph radiographs rib ribs view views
"""
_ORGAN_WORDS = """
    abdomen abnormalities airway airways and aorta bone bones bony cage cardiac
    cardiomediastinal cardiomediastinum cardiovascular catheters chest contour contours devices
    diaphragm diaphragms effusion effusions great heart hemidiaphragms hila hilar hilum in left
    lines lower lung lungs mediastinal mediastinum of or osseous other parenchyma pleura pleural
    pneumothorax pulmonary rib ribs right shoulder shoulders silhouette size skeleton soft space
    spaces spine structures support thoracic thorax tissue tissues trachea tubes upper vascular
    vasculature vessels wall
"""
# ADDITIONAL FINDINGS add to the section and are not a section of their own.
_ADDS = re.compile(
    r"(?:additional|ancillary|associated|incidental|negative|other|pertinent|positive|secondary) "
)
# A header within a line: in capitals after a word that is not, or in either case after a sentence.
_NAMES = "|".join(
    re.escape(name) for of in ("findings", "impression", _JOINT) for name in _KNOWN[of]
)
_SEAM = re.compile(
    r"(?<=[a-z0-9_.!?,;:)\]*])[ \t]+(?=\*{0,3}(?:FINDINGS|IMPRESSION|CONCLUSION|COMPARISON|"
    r"TECHNIQUE|INDICATION|RECOMMENDATIONS?|NOTIFICATION) ?\*{0,3}:)"
    rf"|(?<=[.!?*])[ \t]+(?=\*{{0,3}}(?i:{_NAMES}) ?\*{{0,3}}:)"
)
# What is said about the report itself, below the section's own text.
_NOTE = re.compile(
    r"(?:,\s*(?:(?:as|which|this|and)\s+)?(?:(?:was|were)\s+)?)?"
    r"(?:(?:discussed|reviewed) with|communicated (?:to|with|by)|"
    r"(?:conveyed|relayed|telephoned|called|emailed|posted) to|"
    r"(?:entered|placed|logged) (?:in|into|on) the (?:critical )?(?:results? )?dashboard|"
    r"\b(?:notified|notification|paged|informed|emailed|aware)\b|"
    r"(?:by|via|over the) (?:tele)?phone|wet read|dictated|(?:signed|approved) by)",
    re.IGNORECASE,
)
# The words that a note consists of, apart from what `_NOTE` matches; any other may be a finding.
_NOTE_WORDS = """
    a about above all also am an and are as at attending been being but by case change changes
    clinical clinician communicated communication complete conversation critical dashboard date
    department dictated direct discovery discussed discussion dr drs e ed email emergency finding
    findings following for from had has have he her his house icu image images immediately
    impression in initial intern interpretation is it made mail md message minutes moments mr mrs ms
    no note nurse of officer on order our over pa page paged phone physician pm preliminary prior
    provider question radiograph radiologist radiology read reading recommendation recommendations
    referring report reported reporting resident result results review reviewed s she shortly
    significant staff study surgery team telephone the their then there these they this time to
    today updated urgent verbal verbally via was we were when which who with a.m p.m
"""
_TELLS_OF = re.compile(r"\b(?:of|about|regarding|concerning|that|for)\s+([^.;]*)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[a-z)\]]{2}[.!?])\s+(?=[A-Z0-9])")
_NOTE_WITHIN = 160  # characters from the paragraph's start


def compose(sections: Mapping[str, str], wanted: str) -> str | None:
    """The text of `wanted`: one section, or several joined by "+" that must all be present.

    Returns:
        The text; "" if a section is present but empty; None if one is missing.
    """
    names = wanted.split("+")
    if len(names) > 1:  # a placeholder is not joined to a text
        sections = {name: "" if is_empty_report(text) else text for name, text in sections.items()}
    if all(sections.get(name) for name in names):
        *first, last = (sections[name] for name in names)
        return " ".join([*map(_finished, first), last])
    return sections.get(wanted, "" if all(name in sections for name in names) else None)


def _finished(text: str) -> str:
    """End `text` as a sentence, so that another text can follow."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?", ";", ":")) else text + "."


class Sections(dict[str, str]):
    """Texts by section: `findings`, `impression`, and `findings+impression` for a joint section.

    Attributes:
        before: the text before the first header, on one line.
        ended: the sections that an unknown header ended, each with that header.
    """

    before: str = ""
    ended: dict[str, str]


def read_sections(report: str, repeated: Literal["last", "join"] = "last") -> Sections:
    """Split a report at its headers into one-line texts, without the notes at their ends.

    A section that has a header but no text is "". The time is linear in the report's length.

    Args:
        report: a whole report.
        repeated: what to do with a section that occurs more than once: "last" keeps its last text,
            as the MIMIC code repository does; "join" joins all of them.
    """
    bodies: dict[str, list[list[str]]] = {}
    within = ""  # the current section; none before the first header
    body = first = [""]
    texts = Sections()
    texts.ended = {}
    above = ""
    for line in _SEAM.sub("\n", report).splitlines():
        finished = above.rstrip()[-1:] in ("", ".", "!", "?", ":")
        header = _header(line, finished) if line else None
        above = line
        if header is None or _is_sub_head(header, within, body):
            body.append(line)
            continue
        if header.section in (_UNKNOWN, _FILMS):
            texts.ended.setdefault(within, header.name)
        within = _OTHER if header.section == _UNKNOWN else header.section
        body = [header.rest]
        bodies.setdefault(within, []).append(body)
    texts.before = _text(first)
    for section, occurrences in bodies.items():
        found = [text for text in map(_text, occurrences) if text]
        # an empty FINDINGS stands above the headings of all films
        several = repeated == "join" or (section == _FILMS and "findings" in bodies)
        texts[section] = (" ".join(found) if several else found[-1]) if found else ""
    films, _ = texts.pop(_FILMS, ""), texts.pop(_OTHER, "")
    if films and not texts.get("findings") and not texts.get(_JOINT):
        texts["findings"] = films
        texts.ended["findings"] = texts.ended.get(_FILMS, "")
    if _JOINT in texts and not texts.get("impression"):
        texts["impression"] = texts[_JOINT]
        texts.ended["impression"] = texts.ended.get(_JOINT, "")
    texts.ended = {name: head for name, head in texts.ended.items() if head and name in texts}
    return texts


class _Header(NamedTuple):
    section: str
    name: str
    rest: str  # of its line


def _header(line: str, finished: bool) -> _Header | None:
    """The header at the start of a line, or None.

    After a line that is not `finished`, a header counts only in capitals, in Markdown, or if it
    names a section with an initial capital.
    """
    head, colon, _ = line[: _LONGEST_HEADER + 1].partition(":")
    bare = head.lstrip(" \t#*")
    marked = head.lstrip(" \t") != bare
    name = " ".join(bare.rstrip(" \t*").split())
    if not name or not _HEADER_CHARACTERS.issuperset(name):
        return None
    section = _SECTION_OF.get(name.lower())
    opens = name.isupper() or marked
    if section not in (None, _OTHER):
        opens = opens or name[0].isupper()
    if not colon:
        alone = section is not None and len(line) <= _LONGEST_HEADER
        opens = opens and (finished or name.isupper() or marked)
        return _Header(str(section), name, "") if alone and opens else None
    if section is None and name.isupper() and len(name) > 1:
        section = _section_of_capitals(name.lower())
    if section is None or not (opens or finished):
        return None
    rest = line[len(head) + 1 :]
    return _Header(section, name, rest.lstrip("*") if marked else rest)


def _is_sub_head(header: _Header, within: str, body: list[str]) -> bool:
    """Whether a header is a subheading of the section `within`, whose lines so far are `body`."""
    if header.section not in (_UNKNOWN, _FILMS) or within in ("", _OTHER):
        return False
    if set(_words(header.name.lower())).issubset(_ORGAN_WORDS.split()):
        return header.section == _UNKNOWN or (within != _FILMS and any(map(str.strip, body)))
    return header.section == _UNKNOWN and within != "impression"


@lru_cache(maxsize=4096)
def _section_of_capitals(name: str) -> str:
    """The section of a header that is not in the list, judged by the words in it."""
    if _ADDS.match(name):
        return _UNKNOWN
    if "impression" in name or "conclusion" in name:
        return _JOINT if "finding" in name else "impression"
    if "finding" in name:
        return "findings"
    if any(known in name for known in _OTHER_WORDS):
        return _OTHER
    misspelt = difflib.get_close_matches(name, ("findings", "impression"), n=1, cutoff=0.8)
    if misspelt:
        return misspelt[0]
    return _UNKNOWN if set(_words(name)).isdisjoint(_FILM_WORDS.split()) else _FILMS


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", name) if word]


def _text(lines: list[str]) -> str:
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        words = line.split()
        if "".join(words).strip("_-=*"):
            paragraphs[-1] += words
        else:  # a blank line or a rule ends the paragraph
            paragraphs.append([])
    kept = [" ".join(words) for words in paragraphs if words]
    while len(kept) > 1 and _NOTE.search(kept[-1][:_NOTE_WITHIN]):
        rest = _without_note(kept.pop())
        if rest:
            kept.append(rest)
            break
    return " ".join(kept)


def _without_note(paragraph: str) -> str:
    """What a paragraph says before a note about the report, and in later numbered items."""
    kept: list[str] = []
    noted = False
    for sentence in _SENTENCE_END.split(paragraph):
        note = _NOTE.search(sentence)
        if note is None:
            if not noted or sentence[0].isdigit():
                kept.append(sentence)
            continue
        noted = True
        if note[0].startswith(","):  # a finding, then a clause about the call
            kept.append(sentence[: note.start()] + ".")
        elif _says_more(sentence, note):
            kept.append(sentence)
    return " ".join(kept)


def _says_more(sentence: str, note: re.Match[str]) -> bool:
    """Whether a sentence with a note also names a finding."""
    about = (said[1] for said in _TELLS_OF.finditer(sentence, note.end()))
    words = re.findall(
        r"[a-z][a-z.]*[a-z]|[a-z]", " ".join([sentence[: note.start()], *about]).lower()
    )
    return not set(words).issubset(_NOTE_WORDS.split())


_PLACEHOLDERS = frozenset(["nan", "none", "null"])  # written by tables for an empty cell


def is_empty_report(report: str) -> bool:
    """Whether a report has no alphabetic word, or only a placeholder such as `nan` or `None.`."""
    words = [word.strip(string.punctuation) for word in report.split()]
    if len(words) == 1 and words[0].lower() in _PLACEHOLDERS:
        return True
    return not any(word.isalpha() for word in words)
