"""Sections of reports in the habits of MIMIC-CXR; every report here is invented."""

from __future__ import annotations

import re

import pytest

from uar.core.sections import compose, is_empty_report, read_sections

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 INDICATION:  ___-year-old with cough.  Findings: none of ours.

 COMPARISON:  ___.

 FINDINGS:

 The heart is normal in size.
 There is no effusion: none at all.

 Lungs are clear.

 IMPRESSION:

 No acute process.
"""


def test_a_whole_report() -> None:
    assert read_sections(REPORT) == {
        "findings": "The heart is normal in size. There is no effusion: none at all. "
        "Lungs are clear.",
        "impression": "No acute process.",
    }


@pytest.mark.parametrize(
    ("report", "findings"),
    [
        # Spellings of the header, in any case, with and without blanks.
        ("FINDINGS: Clear.", "Clear."),
        ("findings: Clear.", "Clear."),
        ("Findings:Clear.", "Clear."),
        ("   FINDINGS :  Clear.", "Clear."),
        ("FINDING:\nClear.", "Clear."),
        ("FINDINGS\n\nClear.", "Clear."),
        ("FINDIGNS: Clear.", "Clear."),
        ("CHEST FINDINGS: Clear.", "Clear."),
        ("FINDINGS:\r\nClear.\r\n", "Clear."),
        # A header is at the start of a line, or in capitals after a word that is not.
        ("HISTORY: cough FINDINGS: Clear.", "Clear."),
        ("INDICATION: ___ FINDINGS: Clear. IMPRESSION: Normal.", "Clear."),
        ("FINDINGS: Clear lungs IMPRESSION: Normal.", "Clear lungs"),
        ("FINDINGS: Seen in 3 IMPRESSION: Normal.", "Seen in 3"),
        ("FINDINGS: Clear (now) IMPRESSION: Normal.", "Clear (now)"),
        ("Findings: Clear. Impression: Normal.", "Clear."),
        ("FINDINGS: Clear. Recommendation: none.", "Clear. Recommendation: none."),
        ("FINDINGS: Clear, see the Impression: below.", "Clear, see the Impression: below."),
        ("FINDINGS: Clear, in IMPRESSION too.", "Clear, in IMPRESSION too."),
        ("These are the findings: Clear.", None),
        # Other headers end the section; in mixed case only known ones do.
        ("FINDINGS: Clear.\nIMPRESSION: Normal.", "Clear."),
        ("FINDINGS: Clear.\nimpression: Normal.", "Clear."),
        ("FINDINGS: Clear.\nNOTIFICATION: Told.", "Clear."),
        ("FINDINGS: Clear.\nLINES AND TUBES: None.", "Clear. LINES AND TUBES: None."),
        ("FINDINGS: Clear.\nHeart: normal.", "Clear. Heart: normal."),
        ("FINDINGS: At 3:45 clear.\nT11: normal.", "At 3:45 clear. T11: normal."),
        # The last one that says something counts.
        ("FINDINGS: Old.\nADDENDUM: More.\nFINDINGS: New.", "New."),
        ("FINDINGS: Old.\nIMPRESSION: x\nFINDINGS:", "Old."),
        # A heading that names the films stands in for FINDINGS.
        ("PA AND LATERAL VIEWS OF THE CHEST:\n Clear.", "Clear."),
        ("CHEST, TWO VIEWS: Clear.", "Clear."),
        ("PORTABLE CHEST:\nFirst.\nFINDINGS: Clear.", "Clear."),
        ("COMPARISON: Chest radiographs.\nTECHNIQUE: PA view.", None),
        ("CHEST RADIOGRAPH TECHNIQUE: Two views.", None),
        # Notes below the text go, however many; text that only mentions a call stays.
        ("FINDINGS: Clear.\n\n Findings were discussed with Dr. ___.", "Clear."),
        ("FINDINGS: Clear.\n\n Dr. ___ was paged.\n\n Dictated by ___.\n", "Clear."),
        ("FINDINGS: Clear.\n ____________\n Results were relayed to ___.", "Clear."),
        (
            "FINDINGS: This was discussed with Dr. ___. Clear.",
            "This was discussed with Dr. ___. Clear.",
        ),
        ("FINDINGS: Clear.\n\n Dr. ___ was paged.\n\n Bones.", "Clear. Dr. ___ was paged. Bones."),
        # Headed, but empty.
        ("FINDINGS:\n\nIMPRESSION: Normal.", ""),
        # No header, no section: the last paragraph is not taken for one.
        ("Chest film of today.\n\n The heart is normal.", None),
        ("", None),
        # A joint section is an impression.
        ("FINDINGS AND IMPRESSION: Clear.", None),
    ],
)
def test_findings(report: str, findings: str | None) -> None:
    assert read_sections(report).get("findings") == findings


@pytest.mark.parametrize(
    ("report", "impression"),
    [
        ("IMPRESSION: Normal.", "Normal."),
        ("Conclusion: Normal.", "Normal."),
        ("IMPRESSON: Normal.", "Normal."),
        ("FINDINGS/IMPRESSION: Clear.", "Clear."),
        ("FINDINGS AND IMPRESSION: Clear.\nIMPRESSION: Normal.", "Normal."),
        ("FINDINGS: Clear.", None),
    ],
)
def test_impression(report: str, impression: str | None) -> None:
    assert read_sections(report).get("impression") == impression


@pytest.mark.parametrize(
    ("report", "both"),
    [
        ("FINDINGS: Clear.\nIMPRESSION: Normal.", "Clear. Normal."),
        ("FINDINGS AND IMPRESSION: Clear.", "Clear."),
        ("FINDINGS: Clear.", None),
        ("IMPRESSION: Normal.", None),
        ("FINDINGS: Clear.\nIMPRESSION:", ""),
    ],
)
def test_both_sections_must_be_there(report: str, both: str | None) -> None:
    assert compose(read_sections(report), "findings+impression") == both


def test_one_section_is_taken_as_it_stands() -> None:
    sections = {"findings": " As  typed. ", "impression": ""}
    assert compose(sections, "findings") == " As  typed. "
    assert compose(sections, "impression") == ""
    assert compose({}, "impression") is None


URGENT = "IMPRESSION:\n\n 1.  Stable cardiomegaly.\n\n 2.  New pneumothorax, {} Dr. ___ at 9:15."


@pytest.mark.parametrize(
    "call",
    ["discussed with", "reviewed with", "which was discussed with", "communicated to", "called to",
     "relayed to", "conveyed to", "telephoned to", "emailed to", "posted to"],
)  # fmt: skip
def test_a_clinical_paragraph_loses_only_its_call(call: str) -> None:
    found = read_sections(URGENT.format(call))["impression"]
    assert found == "1. Stable cardiomegaly. 2. New pneumothorax."


@pytest.mark.parametrize(
    "note",
    ["Dr. ___ is aware.", "Telephone notification to Dr. ___ at 9:15.",
     "The findings were entered into the critical results dashboard.",
     "These findings were discussed with Dr. ___ by Dr. ___ via telephone at 11:15 on ___, 5 "
     "minutes after discovery.",
     "Findings and recommendations were reviewed with the referring physician.",
     "Dr. ___ was notified of these findings by phone.", "Dr. ___ was paged about the results.",
     "The image was reviewed with Dr. ___ who agreed.", "An urgent e-mail was emailed to Dr. ___.",
     "Dr. ___ was informed.", "Findings were called to Dr. ___.", "Dr. ___ was emailed.",
     "Results were posted to the dashboard.", "Discussed with Dr. ___. She understood.",
     "Dr. ___ was notified at 9:15."],
)  # fmt: skip
def test_a_paragraph_that_is_only_a_note_goes(note: str) -> None:
    assert read_sections(f"IMPRESSION: Normal.\n\n {note}")["impression"] == "Normal."


@pytest.mark.parametrize(
    "said",
    ["New pneumothorax was called to Dr. ___ at 9:15.",
     "Dr. ___ was informed of the new pneumothorax at 9:15.",
     "The left effusion was discussed with Dr. ___.",
     "Dr. ___ was paged about a misplaced tube.",
     "Large free air, called to Dr. ___ at once, is new."],
)  # fmt: skip
def test_a_finding_within_a_note_stays(said: str) -> None:
    found = read_sections(f"IMPRESSION: Stable.\n\n {said}")["impression"]
    words = re.findall("pneumothorax|effusion|tube|free air", said)
    assert found.startswith("Stable. ") and words[0] in found


def test_film_headings_under_empty_findings_are_joined() -> None:
    report = "FINDINGS:\n\n CHEST:  Clear lungs.\n\n RIBS:  No fracture.\n\n IMPRESSION:  Normal."
    assert read_sections(report)["findings"] == "Clear lungs. No fracture."
    assert read_sections(report.replace("FINDINGS:", ""))["findings"] == "No fracture."


@pytest.mark.parametrize("placeholder", ["nan", "None.", "NULL", "...", "___"])
def test_a_placeholder_is_not_joined(placeholder: str) -> None:
    for sections in (
        {"findings": placeholder, "impression": "Normal."},
        {"findings": "Clear.", "impression": placeholder},
    ):
        assert compose(sections, "findings+impression") == ""


@pytest.mark.parametrize(
    "heading",
    ["CHEST", "PA AND LATERAL VIEWS OF THE CHEST", "RIBS", "BONE WINDOW", "PORTABLE AP VIEW"],
)
def test_empty_findings_are_under_the_next_film_heading(heading: str) -> None:
    assert read_sections(f"FINDINGS:\n\n{heading}:\n Clear lungs.")["findings"] == "Clear lungs."


ORGANS = [
    "LUNGS", "LUNG", "HEART", "BONES", "PLEURA", "MEDIASTINUM", "LUNGS AND PLEURA", "LUNGS/PLEURA",
    "LUNGS AND AIRWAYS", "LUNG PARENCHYMA", "PLEURAL SPACES", "PLEURAL SPACE", "PLEURAL EFFUSION",
    "PNEUMOTHORAX", "HEART SIZE", "HEART AND MEDIASTINUM", "HEART/MEDIASTINUM", "CARDIAC",
    "CARDIAC SILHOUETTE", "CARDIOMEDIASTINAL SILHOUETTE", "CARDIOMEDIASTINUM", "CARDIOVASCULAR",
    "MEDIASTINUM AND HILA", "HILA", "BONES AND SOFT TISSUES", "BONES/SOFT TISSUES",
    "OSSEOUS STRUCTURES", "BONY THORAX", "SOFT TISSUES", "CHEST WALL", "RIBS", "SUPPORT DEVICES",
    "LINES AND TUBES", "TUBES AND LINES", "LINES/TUBES", "TUBES, LINES, AND DEVICES",
    "UPPER ABDOMEN", "DIAPHRAGM", "TRACHEA", "PULMONARY VASCULATURE", "AORTA", "SPINE",
    "THORACIC SPINE", "OTHER",
]  # fmt: skip


@pytest.mark.parametrize("organ", ORGANS)
def test_organs_are_sub_heads_of_findings(organ: str) -> None:
    for before in ("", "Two views. ", "LUNGS: Clear.\n"):
        findings = f"{before}\n{organ}: Normal.\nHEART: Normal."
        found = read_sections(f"FINDINGS:\n{findings}\nIMPRESSION: None new.")
        expected = " ".join(findings.split())
        if organ in ("RIBS", "CHEST WALL") and not before:  # a heading of films
            expected = expected.removeprefix(f"{organ}: ")
        assert found == {"findings": expected, "impression": "None new."}
        assert not found.ended
    for section in ("IMPRESSION", "FINDINGS AND IMPRESSION"):
        found = read_sections(f"{section}:\n1. Stable.\n{organ}: Normal.")
        assert found["impression"] == f"1. Stable. {organ}: Normal."


@pytest.mark.parametrize("head", ["NODULES", "TECHNICAL QUALITY", "ADDITIONAL FINDINGS", "PFI"])
def test_a_head_that_no_list_knows(head: str) -> None:
    """It belongs to findings, and else ends its section, which is told."""
    found = read_sections(f"FINDINGS: Clear.\n{head}: None.\nIMPRESSION: Normal.\n{head}: x\n")
    assert found == {"findings": f"Clear. {head}: None.", "impression": "Normal."}
    assert found.ended == {"impression": head}
    assert read_sections(f"CHEST, ONE VIEW: Clear.\n{head}: x")["findings"] == f"Clear. {head}: x"


def test_headings_of_other_films_end_findings_and_are_told() -> None:
    found = read_sections("FINDINGS: Clear.\nABDOMEN, TWO VIEWS: Gas.\nIMPRESSION: Normal.")
    assert found == {"findings": "Clear.", "impression": "Normal."}
    assert found.ended == {"findings": "ABDOMEN, TWO VIEWS"}


@pytest.mark.parametrize(
    "head", ["COMPARISON", "TECHNIQUE", "INDICATION", "Recommendations", "NOTIFICATION", "ADDENDUM",
             "CLINICAL HISTORY", "EXAM DATE", "ATTENDING", "SIGNED BY", "DOSE"],
)  # fmt: skip
def test_known_heads_end_findings(head: str) -> None:
    found = read_sections(f"FINDINGS: Clear.\n{head}: x\nIMPRESSION: Normal.")
    assert found == {"findings": "Clear.", "impression": "Normal."}
    assert not found.ended


@pytest.mark.parametrize("line", [
    "findings: clear lungs. impression: normal.", "findings: clear lungs.\nimpression: normal.",
    "indication: cough. findings: clear lungs. impression: normal.",
    "findings : clear lungs. conclusion : normal.",
])  # fmt: skip
def test_reports_in_lower_case(line: str) -> None:
    assert read_sections(line) == {"findings": "clear lungs.", "impression": "normal."}


def test_what_occurs_twice() -> None:
    report = "No head.\nFINDINGS: Old.\nIMPRESSION: x\nFINDINGS: New."
    assert read_sections(report)["findings"] == "New."
    assert read_sections(report, repeated="join")["findings"] == "Old. New."
    assert read_sections(report).before == "No head."


@pytest.mark.parametrize("word", ["comparison", "history", "technique", "findings", "impression"])
def test_a_wrapped_word_is_no_header(word: str) -> None:
    found = read_sections(f"FINDINGS: Effusion, see the\n {word}: clear left lung.")
    assert found == {"findings": f"Effusion, see the {word}: clear left lung."}


def test_a_report_on_one_line() -> None:
    found = read_sections("INDICATION: Cough. FINDINGS: Clear lungs. IMPRESSION: Normal.")
    assert found == {"findings": "Clear lungs.", "impression": "Normal."}


def test_joined_sections_are_two_sentences() -> None:
    sections = {"findings": "No effusion", "impression": "Cardiomegaly."}
    assert compose(sections, "findings+impression") == "No effusion. Cardiomegaly."


@pytest.mark.parametrize(
    "report", ["nan", "NaN", "None", "None.", "null", " nan ", "...", "", "___", "NONE", "(none)"]
)
def test_placeholders_are_empty(report: str) -> None:
    assert is_empty_report(report)


@pytest.mark.parametrize("report", ["Normal.", "None acute.", "No nan seen.", "Clear"])
def test_reports_are_not_empty(report: str) -> None:
    assert not is_empty_report(report)
