"""Sections of a radiology report.

`read_sections` follows the section parser of the MIMIC code repository
(https://github.com/MIT-LCP/mimic-cxr) as its documentation has it: a header opens a line and ends
with a colon; one in capitals is a header whatever it says, and so ends the section before it;
spellings are normalised; of a section that occurs twice the last counts; a heading that names films
(PA AND LATERAL CHEST:) stands for FINDINGS where there is none; FINDINGS AND IMPRESSION is an
impression. Here known headers count in any case, and notes on the report itself below a section's
text are dropped. A report without headers has no section: its last paragraph is not taken for one,
and single reports get no rules of their own. Of a trailing paragraph that says more than a note
does, only the note goes; heads of organs (LUNGS:) belong to their section. On one line, a header in
capitals ends the section before it, and an empty FINDINGS is what all headings of films hold.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Mapping
from functools import lru_cache

from uar.data.study import is_empty_report

_LONGEST_HEADER = 80  # characters
_HEADER_CHARACTERS = frozenset(string.ascii_letters + " ()/,&-")
_JOINT = "findings+impression"
_FILMS = "films"
_OTHER = "other"

_KNOWN = {
    "findings": ("findings", "finding", "chest findings", "radiographic findings"),
    "impression": ("impression", "impressions", "conclusion", "conclusions"),
    _JOINT: ("findings and impression", "findings/impression", "findings & impression"),
    _OTHER: (
        "addendum",
        "clinical history",
        "clinical indication",
        "clinical information",
        "comparison",
        "comparison exam",
        "comparison study",
        "comparisons",
        "exam",
        "examination",
        "final report",
        "history",
        "indication",
        "indications",
        "notification",
        "patient history",
        "preliminary report",
        "reason for exam",
        "reason for examination",
        "recommendation",
        "recommendation(s)",
        "recommendations",
        "reference exam",
        "technique",
        "type of examination",
        "wet read",
    ),
}
_SECTION_OF = {name: section for section, names in _KNOWN.items() for name in names}
_FILM_WORDS = frozenset(
    [
        "ap",
        "bone",
        "chest",
        "frontal",
        "lateral",
        "pa",
        "portable",
        "radiograph",
        "radiographs",
        "rib",
        "ribs",
        "view",
        "views",
    ]
)
# Sub-heads of findings.
_ORGANS = frozenset(
    [
        "lungs",
        "lung",
        "heart",
        "bones",
        "pleura",
        "mediastinum",
        "airways",
        "airway",
        "hila",
        "cardiac",
    ]
)
# A header within a line: in capitals after a word that is not, or in title case after a sentence.
_SEAM = re.compile(
    r"(?<=[a-z0-9_.!?,;:)\]])[ \t]+(?=(?:FINDINGS|IMPRESSION|CONCLUSION|COMPARISON|TECHNIQUE|"
    r"INDICATION|RECOMMENDATIONS?|NOTIFICATION) ?:)"
    r"|(?<=[.!?])[ \t]+(?=(?:Findings|Impression|Conclusion) ?:)"
)
# What tells of the report itself, below the section's own text.
_NOTE = re.compile(
    r"(?:,\s*(?:(?:as|which|this|and)\s+)?(?:(?:was|were)\s+)?)?"
    r"(?:(?:discussed|reviewed) with|communicated (?:to|with|by)|"
    r"(?:conveyed|relayed|telephoned|called|emailed|posted) to|"
    r"(?:entered|placed|logged) (?:in|into|on) the (?:critical )?(?:results? )?dashboard|"
    r"\b(?:notified|notification|paged|informed|emailed|aware)\b|"
    r"(?:by|via|over the) (?:tele)?phone|wet read|dictated|(?:signed|approved) by)",
    re.IGNORECASE,
)
# Words that a note consists of beside what `_NOTE` finds; any other may be a finding.
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
    """The text of `wanted`: a section, or several joined by "+", all of which must be there.

    Returns:
        The text, "" if a section is there but empty, None if one is missing.
    """
    names = wanted.split("+")
    if len(names) > 1:  # a placeholder is not joined to a text
        sections = {name: "" if is_empty_report(text) else text for name, text in sections.items()}
    if all(sections.get(name) for name in names):
        *first, last = (sections[name] for name in names)
        return " ".join([*map(_finished, first), last])
    return sections.get(wanted, "" if all(name in sections for name in names) else None)


def _finished(text: str) -> str:
    """Text that another is put behind: it ends a sentence."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?", ";", ":")) else text + "."


def read_sections(report: str) -> dict[str, str]:
    """Split a report at its headers: section -> text on one line, trailing notes dropped.

    The keys are `findings`, `impression` and, for a joint section, `findings+impression`; a section
    that is headed but empty is "". Takes time linear in the report's length.
    """
    bodies: dict[str, list[list[str]]] = {}
    body: list[str] = []  # the lines before the first header are in no section
    before = ""  # the line above
    for line in _SEAM.sub("\n", report).splitlines():
        header = _header(line, finished=before.rstrip()[-1:] in ("", ".", "!", "?", ":"))
        before = line
        if header is None:
            body.append(line)
        else:
            section, rest = header
            body = [rest]
            bodies.setdefault(section, []).append(body)
    texts: dict[str, str] = {}
    for section, occurrences in bodies.items():
        found = [text for text in map(_text, occurrences) if text]
        # all films that an empty FINDINGS is headed over
        several = section == _FILMS and "findings" in bodies
        texts[section] = (" ".join(found) if several else found[-1]) if found else ""
    films, _ = texts.pop(_FILMS, ""), texts.pop(_OTHER, "")
    if films and not texts.get("findings") and not texts.get(_JOINT):
        texts["findings"] = films
    if _JOINT in texts and not texts.get("impression"):
        texts["impression"] = texts[_JOINT]
    return texts


def _header(line: str, finished: bool) -> tuple[str, str] | None:
    """The section that a line opens and the rest of the line, or None.

    Only a header in capitals may follow a line that is not `finished`.
    """
    head, colon, _ = line[: _LONGEST_HEADER + 1].partition(":")
    name = head.strip()
    if not colon:
        alone = len(line) <= _LONGEST_HEADER and name.isupper()
        section = _SECTION_OF.get(name.lower()) if alone else None
        return (section, "") if section else None
    if not _HEADER_CHARACTERS.issuperset(name) or name.lower() in _ORGANS:
        return None
    if not (finished or name.isupper()):
        return None
    section = _SECTION_OF.get(" ".join(name.lower().split()))
    if section is None and name.isupper() and len(name) > 1:
        section = _section_of_capitals(name.lower())
    return None if section is None else (section, line[len(head) + 1 :])


@lru_cache(maxsize=4096)
def _section_of_capitals(name: str) -> str:
    """The section of a header that is not in the list, by the words in it."""
    if "impression" in name or "conclusion" in name:
        return _JOINT if "finding" in name else "impression"
    if "finding" in name:
        return "findings"
    if any(known in name for known in ("exam", "technique", "comparison", "indication", "history")):
        return _OTHER
    misspelt = difflib.get_close_matches(name, ("findings", "impression"), n=1, cutoff=0.8)
    if misspelt:
        return misspelt[0]
    words = re.split(r"[^a-z]+", name)
    return _FILMS if _FILM_WORDS.intersection(words) else _OTHER


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
    """What a paragraph says before a note on the report itself, and in later numbered items."""
    kept: list[str] = []
    noted = False
    for sentence in _SENTENCE_END.split(paragraph):
        note = _NOTE.search(sentence)
        if note is None:
            if not noted or sentence[0].isdigit():
                kept.append(sentence)
            continue
        noted = True
        if note[0].startswith(","):  # a clause about the call below a finding
            kept.append(sentence[: note.start()] + ".")
        elif _says_more(sentence, note):
            kept.append(sentence)
    return " ".join(kept)


def _says_more(sentence: str, note: re.Match[str]) -> bool:
    """Whether a sentence with a note names what the note is about."""
    about = (said[1] for said in _TELLS_OF.finditer(sentence, note.end()))
    words = re.findall(
        r"[a-z][a-z.]*[a-z]|[a-z]", " ".join([sentence[: note.start()], *about]).lower()
    )
    return not set(words).issubset(_NOTE_WORDS.split())
