"""Others' files of reports: read, written, scored."""

from __future__ import annotations

import csv
import json
import logging
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from pipeline import paths
from pipeline.__main__ import app
from tests.conftest import ROOT, labeller, override
from uar.core.errors import UserError
from uar.core.files import read_json, write_table
from uar.data.text import CLEANERS, Vocabulary
from uar.evaluation.baselines import derangement
from uar.evaluation.formats import as_prose, read_reports, section_of
from uar.evaluation.metrics import score
from uar.evaluation.predictions import Prediction, read_predictions, write_predictions

# The fields of ReXrank's published test files, a study each.
REXRANK_FIELDS = [
    "key_image_path", "image_path", "report", "section_findings", "section_impression", "split",
    "frontal_lateral", "context",
]  # fmt: skip
REPORTS = {
    "s1": "The heart is normal in size. The lungs are clear.",
    "s2": "Small left pleural effusion. No pneumothorax.",
    "s3": "Cardiomegaly. The lungs are clear.",
    "s4": "The heart is normal in size. There is no effusion.",
    "s5": "Right lower lobe consolidation, small effusion.",
}
SAID = {
    "s1": "the heart is normal in size . the lungs are clear .",
    "s2": "the heart is normal in size . small left pleural effusion .",
    "s3": "the heart is enlarged . the lungs are clear .",
    "s4": "the heart is normal in size .",
    "s5": "the lungs are clear .",
}


def predictions() -> list[Prediction]:
    clean = CLEANERS["iu_xray"]
    return [Prediction(s, REPORTS[s], clean(REPORTS[s]), SAID[s], -1.0) for s in REPORTS]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reports as test split of a data set; no Java, which takes seconds, as do rules."""
    monkeypatch.setattr("pipeline.measures.Labeller", labeller)
    raw = yaml.safe_load((ROOT / paths.PARAMS).read_text())
    changes = {"meteor": False, "protocols": ["r2gen"], "resamples": 20, "constant_candidates": 3}
    for key, value in changes.items():
        override(raw, f"evaluate.{key}", value)
    override(raw, "vocabulary.min_count", 2)
    (tmp_path / paths.PARAMS).write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    table = pd.DataFrame(
        [
            (f"{split}-{s}" if split != "test" else s, split, text, ["a.png", "b.png"],
             ["lateral", "frontal"])
            for split in ("train", "val", "test")
            for s, text in REPORTS.items()
        ],
        columns=["study_id", "split", "report", "image_paths", "views"],
    )  # fmt: skip
    write_table(paths.STUDIES, table)
    cleaned = table["report"].map(CLEANERS["iu_xray"])
    write_table(paths.REPORTS, table.assign(cleaned=cleaned))
    Vocabulary.build(cleaned[:5], 1).save(paths.VOCABULARY)
    write_predictions(paths.PREDICTIONS, predictions())
    return tmp_path


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception
    return result.output


# ---- prose


@pytest.mark.parametrize(
    ("words", "prose"),
    [
        ("the heart is normal . no edema .", "The heart is normal. No edema."),
        ("no full stop", "No full stop."),
        ("", ""),
        (" . . ", ""),
        ("t11 is low . . the end .", "T11 is low. The end."),
    ],
)
def test_prose(words: str, prose: str) -> None:
    assert as_prose(words) == prose


def test_cleaning_gives_the_words_of_prose_back(iu_xray: Path) -> None:
    clean = CLEANERS["iu_xray"]
    for study in read_json(iu_xray / "annotation.json")["test"]:
        words = " ".join(clean(study["report"]).split())
        again = clean(as_prose(words))
        if ". ." not in words and not words.startswith("."):  # no sentence without words
            assert again == words or _numbered(words), (words, again)


def _numbered(words: str) -> bool:
    """Whether a sentence begins with a single digit, which cleaning takes for a list's number."""
    return any(part.split()[:1] and part.split()[0] in "12345" for part in words.split(" . "))


@pytest.mark.parametrize(
    ("section", "text"),
    [("findings", "Clear."), ("impression", "Normal."), ("findings+impression", "Clear. Normal.")],
)
def test_sections_of_a_text_with_heads(section: Any, text: str) -> None:
    assert section_of("Findings:Clear. Impression: Normal.", section) == text
    assert section_of("FINDINGS : Clear.\nIMPRESSION: Normal.", section) == text
    assert section_of("No head at all.", section) == "No head at all."


WRITTEN = {  # text: findings, impression
    "Lungs clear. Additional findings: none.": ("Lungs clear. Additional findings: none.",) * 2,
    "Lungs clear. No other findings: normal.": ("Lungs clear. No other findings: normal.",) * 2,
    "Findings: Clear. Incidental findings: healed rib fracture.": (
        "Clear. Incidental findings: healed rib fracture.", None),
    "FINDINGS: Clear.\nINCIDENTAL FINDINGS: Healed rib fracture.\nIMPRESSION: Normal.": (
        "Clear. INCIDENTAL FINDINGS: Healed rib fracture.", "Normal."),
    "Findings: Clear. OTHER FINDINGS: none.": ("Clear. OTHER FINDINGS: none.", None),
    "Findings: Clear. Findings: No edema.": ("Clear. No edema.", None),
    "Findings: Clear.\nImpression: Normal.\nFindings: No edema.": ("Clear. No edema.", "Normal."),
    "FINDINGS AND IMPRESSION: Clear.": ("Clear.", "Clear."),
    "Findings and impression: Clear.": ("Clear.", "Clear."),
    "FINDINGS/IMPRESSION:\nClear.": ("Clear.", "Clear."),
    "Findings & Impression: Clear.": ("Clear.", "Clear."),
    "Impression: Normal.": (None, "Normal."),
    "Conclusion: Normal.": (None, "Normal."),
    "Findings: Clear. Conclusion: Normal.": ("Clear.", "Normal."),
    "Findings: Clear. Conclusions: Normal.": ("Clear.", "Normal."),
    "## Findings\nClear.\n## Impression\nNormal.": ("Clear.", "Normal."),
    "# Findings:\n\nClear.\n\n# Impression:\n\nNormal.": ("Clear.", "Normal."),
    "### FINDINGS\nClear.": ("Clear.", None),
    "**Findings:** Clear.\n**Impression:** Normal.": ("Clear.", "Normal."),
    "**Findings**: Clear. **Impression**: Normal.": ("Clear.", "Normal."),
    "**Findings:** Clear. **Impression:** Normal.": ("Clear.", "Normal."),
    "**Findings**\nClear.\n\n**Impression**\nNormal.": ("Clear.", "Normal."),
    "*Findings:* Clear.": ("Clear.", None),
    "FINDINGS\nClear.\nIMPRESSION\nNormal.": ("Clear.", "Normal."),
    "Findings\nClear.\n\nImpression\nNormal.": ("Clear.", "Normal."),
    "findings: clear. impression: normal.": ("clear.", "normal."),
    "findings : clear . impression : normal .": ("clear .", "normal ."),
    "Findings: Clear\nImpression: Normal": ("Clear", "Normal"),
    "The heart is normal. Impression: Normal.": ("The heart is normal.", "Normal."),
    "PA view. Findings: Clear.": ("Clear.", None),
    "Comparison: None. Clear.": ("Comparison: None. Clear.",) * 2,
    "The findings: clear lungs.": ("The findings: clear lungs.",) * 2,
    "See the impression: it is normal.": ("See the impression: it is normal.",) * 2,
    "Clear, findings: none.": ("Clear, findings: none.",) * 2,
    "FINDINGS:\nLUNGS AND PLEURA: Clear.\nHEART: Normal.": (
        "LUNGS AND PLEURA: Clear. HEART: Normal.", None),
}  # fmt: skip


@pytest.mark.parametrize("text", WRITTEN)
def test_heads_as_models_write_them(text: str) -> None:
    assert (section_of(text, "findings"), section_of(text, "impression")) == WRITTEN[text]


def scores_of(texts: dict[str, str], *arguments: str) -> dict[str, Any]:
    Path("peer.json").write_text(json.dumps({s: {"model_prediction": t} for s, t in texts.items()}))
    invoke("score", "peer.json", "--out", "details.json", *arguments)
    found: dict[str, Any] = read_json(Path("details.json"))["scores"]["model"]
    return found


@pytest.mark.parametrize(
    "end", [" Additional findings: none.", " Incidental findings: none.", " Impression: Normal."]
)
def test_a_head_at_the_end_takes_no_text_away(project: Path, end: str) -> None:
    plain = scores_of(REPORTS)
    ended = scores_of({study: text + end for study, text in REPORTS.items()})
    assert plain["r2gen"]["BLEU-4"] == pytest.approx(1)
    if "Impression" in end:
        assert ended["r2gen"] == plain["r2gen"]
    assert ended["r2gen"]["BLEU-4"] > 0.5


def test_reports_without_the_section_are_counted_aloud(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    impressions = {study: f"Impression: {text}" for study, text in REPORTS.items()}
    refused = r"peer.json: 5 of 5 reports have no findings section \(first: s1\)"
    with pytest.raises(UserError, match=refused):
        scores_of(impressions)
    scores_of({**REPORTS, "s2": impressions["s2"], "s4": "FINDINGS:\nIMPRESSION: Normal."})
    assert "2 of 5 reports have no findings section (first: s2) and count as empty" in caplog.text
    scores_of({**REPORTS, "s3": "PA view. Findings: Cardiomegaly."})
    cut = "1 of 5 reports have text before their first header, which is not scored (first: s3)"
    assert cut in caplog.text


@pytest.mark.parametrize("empty", ["None.", "nan", "NULL", "...", "", "___"])
def test_references_without_words_are_left_out(
    project: Path, caplog: pytest.LogCaptureFixture, empty: str
) -> None:
    rows = [{"ref": text, "hyp": text} for text in [*REPORTS.values(), empty]]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    invoke("score", "a.jsonl", "--references", "a.jsonl", "--out", "details.json")
    details = read_json(Path("details.json"))
    assert details["studies"] == 5
    assert details["scores"]["model"]["r2gen"]["BLEU-4"] == pytest.approx(1)
    assert "1 of 6 references have no words and are left out, first 5" in caplog.text
    peer = rexrank()
    peer["s2"]["section_findings"] = empty
    Path("peer.json").write_text(json.dumps(peer))
    assert list(read_reports(Path("peer.json"), "findings").references) == ["s1", "s3", "s4", "s5"]
    both = read_reports(Path("peer.json"), "findings+impression").references
    assert both["s2"] == "Normal."
    assert both["s1"] == f"{REPORTS['s1']} Normal."


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("s1,Heart, size, within normal limits.", "row 1, which ends on line 2: found 4 cells, "),
        ('s1,"Clear, lungs."\ns2,Clear, lungs.', "row 2, which ends on line 3: found 3 cells, "),
        ('s1,"Clear,\nlungs."\ns2,Clear,', "row 2, which ends on line 4: found 3 cells, "),
        ("s1", "row 1, which ends on line 2: found 1 cells, expected 2"),
        ('s1,"Clear lungs.\ns2,Clear.\n', "row 1, line 3: unexpected end of data"),
        ('s1,"Clear" lungs.', "row 1, line 2: ',' expected after"),
    ],
)
@pytest.mark.parametrize("header", ["study_id,report", "reference,hypothesis"])
def test_rows_of_other_lengths_are_refused(
    tmp_path: Path, header: str, rows: str, message: str
) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n{rows}")
    with pytest.raises(UserError, match=message):
        read_reports(tmp_path / "a.csv", "findings")


# ---- files


def rexrank(section: str = "section_") -> dict[str, Any]:
    return {
        s: {
            f"{section}findings": REPORTS[s],
            f"{section}impression": "Normal.",
            "model_prediction": f"Findings:{as_prose(SAID[s])} Impression:Bad.",
        }
        for s in REPORTS
    }


PROSE = {s: as_prose(text) for s, text in SAID.items()}
BY_PLACE = {str(i): text for i, text in enumerate(PROSE.values())}


@pytest.mark.parametrize(
    ("name", "content", "generated"),
    [
        ("a.json", json.dumps(rexrank()), PROSE),
        ("a.json", json.dumps(rexrank("")), PROSE),  # as in ReXrank's first example
        (
            "a.json",
            json.dumps({"references": list(REPORTS.values()), "hypotheses": list(PROSE.values())}),
            BY_PLACE,
        ),
        (
            "a.jsonl",
            "".join(json.dumps({"ref": REPORTS[s], "hyp": PROSE[s]}) + "\n" for s in REPORTS),
            BY_PLACE,
        ),
        (
            "a.csv",
            "reference,hypothesis\n" + "".join(f'"{REPORTS[s]}","{PROSE[s]}"\n' for s in REPORTS),
            BY_PLACE,
        ),
        (
            "a.jsonl",
            "".join(
                json.dumps(
                    {"study_id": s, "report": REPORTS[s], "reference": "", "generated": PROSE[s]}
                    | {"log_probability": 0.0, "cross_entropy": 1.0, "image_gain": None}
                )
                + "\n"
                for s in REPORTS
            ),
            PROSE,
        ),
        ("a.csv", "study_id,report\n" + "".join(f'{s},"{PROSE[s]}"\n' for s in REPORTS), PROSE),
        ("a.tok", "\n".join(PROSE.values()) + "\n\n", BY_PLACE),
    ],
)
def test_every_format_is_read(
    tmp_path: Path, name: str, content: str, generated: dict[str, str]
) -> None:
    (tmp_path / name).write_text(content)
    found = read_reports(tmp_path / name, "findings")
    assert found.generated == generated
    assert found.named == (generated is PROSE)
    if not content.startswith("study_id,report") and not name.endswith(".tok"):
        assert list(found.references.values()) == list(REPORTS.values())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "a.json: Expecting"),
        ("a.json", "[]", "contains neither ReXrank's studies"),
        ("a.json", '{"s1": {"context": ""}}', "no study has a model_prediction or a section_"),
        ("a.json", '{"s1": {"model_prediction": null}}', "study s1: found None where a report"),
        (
            "a.json",
            '{"s1": {"model_prediction": "a"}, "s2": {"section_findings": "b"}}',
            "study s2 has no model_prediction, but others do",
        ),
        (
            "a.json",
            '{"s1": {"model_prediction": "a"}, "s1": {"model_prediction": "b"}}',
            "study s1 occurs twice",
        ),
        ("a.json", '{"references": ["a"], "hypotheses": []}', "1 references but 0 hypotheses"),
        (
            "a.json",
            '{"references": ["a"], "hypotheses": ["b"], "study_ids": []}',
            "0 study_ids but 1 hypotheses",
        ),
        ("a.csv", "id,text\n1,a\n", r"found \['id', 'text'\]"),
        ("a.csv", "study_id,report\n1,a\n1,b\n", r"a\.csv: study 1 occurs twice"),
        ("a.jsonl", '{"ref": "a", "hyp": "b"}\n{"ref": "a"}\n', "some lines have `ref`"),
        ("a.xlsx", "", "expected a file that ends in .json, .jsonl"),
    ],
)
def test_a_file_of_no_format_is_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_reports(tmp_path / name, "findings")


def test_a_file_without_either_section_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"s1": {"context": ""}}')
    with pytest.raises(UserError, match="or a section_findings or section_impression$"):
        read_reports(tmp_path / "a.json", "findings+impression")


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl", "a.csv", "a.tok"):
        (tmp_path / name).write_bytes("study_id,report\n1,c\u00e9phalisation\n".encode("latin-1"))
        with pytest.raises(UserError, match=rf"{name} is not UTF-8 \(invalid continuation byte at"):
            read_reports(tmp_path / name, "findings")


# ---- export


def test_the_rexrank_file_has_its_fields(project: Path) -> None:
    invoke("export_predictions", "--format", "rexrank", "--out", "rexrank.json")
    content = read_json(Path("rexrank.json"))
    assert list(content) == list(REPORTS)
    for study, of in content.items():
        assert list(of) == [*REXRANK_FIELDS, "model_prediction"]
        assert of["section_findings"] == of["report"] == REPORTS[study]
        assert of["model_prediction"] == PROSE[study]
        assert of["key_image_path"] == "b.png"
        assert of["frontal_lateral"] == ["Lateral", "Frontal"]


def test_predictions_go_into_rexranks_own_file(project: Path) -> None:
    own = {s: {"section_findings": "Theirs.", "context": "Pain."} for s in reversed(REPORTS)}
    Path("theirs.json").write_text(json.dumps(own))
    command = ("export_predictions", "--format", "rexrank", "--out", "out.json", "--into")
    invoke(*command, "theirs.json")
    assert read_json(Path("out.json")) == {
        s: {**own[s], "model_prediction": PROSE[s]} for s in REPORTS
    }
    own["s9"] = own.pop("s1")
    Path("theirs.json").write_text(json.dumps(own))
    with pytest.raises(UserError, match=r"1 are not predicted \(s9\), 1 are not in the file \(s1"):
        invoke(*command, "theirs.json")


@pytest.mark.parametrize("format_", ["rexrank", "radeval"])
def test_what_is_exported_scores_the_same_when_read_back(project: Path, format_: str) -> None:
    invoke("score", str(paths.PREDICTIONS), "--out", "own.json")
    invoke("export_predictions", "--format", format_, "--out", "out.json")
    invoke("score", "out.json", "--out", "back.json", "--keep", "kept.jsonl")
    own, back = read_json(Path("own.json")), read_json(Path("back.json"))
    assert own["scores"] == back["scores"]
    assert list(own["scores"]) == ["model", "shuffled_images", "constant_report"]
    assert [p.generated for p in read_predictions("kept.jsonl")] == list(SAID.values())
    assert "text:file,decoded" in own["signatures"]["r2gen"]["CIDEr"]
    assert "text:file,cleaned" in back["signatures"]["r2gen"]["CIDEr"]


# ---- score


def test_scores_are_those_of_the_texts(project: Path) -> None:
    output = invoke("score", str(paths.PREDICTIONS), "--out", "details.json")
    details = read_json(Path("details.json"))
    references = [p.reference for p in predictions()]
    expected = score(references, list(SAID.values()))
    assert details["scores"]["model"]["r2gen"] == pytest.approx(expected)
    said = list(SAID.values())
    shuffled = [said[i] for i in derangement(5, seed=0)]
    assert details["scores"]["shuffled_images"]["r2gen"] == pytest.approx(
        score(references, shuffled)
    )
    clinical = details["scores"]["model"]["clinical"]
    # found: the effusion of s2, the heart of s3; missed: consolidation and effusion of s5
    assert clinical["micro"] == pytest.approx({"precision": 1.0, "recall": 0.5, "F1": 2 / 3})
    assert details["scores"]["constant_report"]["clinical"]["micro"]["F1"] <= 2 / 3
    for shown in ("this model", "constant report", "shuffled images", "5 distinct"):
        assert shown in output
    assert "BLEU-4|r2gen|words:blank|refs:cleaned,cut:60,unk:yes|text:file,decoded|n:5|" in output


def test_references_from_others_files(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    Path("peer.json").write_text(json.dumps(rexrank()))
    splits = {split: [{"id": s, "report": text} for s, text in REPORTS.items()]
              for split in ("train", "val", "test")}  # fmt: skip
    Path("annotation.json").write_text(json.dumps(splits))
    write_predictions(Path("ours.jsonl"), predictions())
    found = {}
    for name in ("annotation.json", "peer.json", "ours.jsonl"):
        invoke("score", "peer.json", "--references", name, "--out", "details.json")
        found[name] = read_json(Path("details.json"))
    assert list(found["annotation.json"]["scores"])[-1] == "constant_report"
    assert "no constant report to compare with" in caplog.text
    signature = found["annotation.json"]["signatures"]["r2gen"]["BLEU-1"]
    assert "unk:yes" in signature
    assert "unk:no" in found["peer.json"]["signatures"]["r2gen"]["BLEU-1"]
    clinical = [details["scores"]["model"]["clinical"] for details in found.values()]
    assert clinical[0] == clinical[1] == clinical[2]
    same = [found[name]["scores"]["model"]["r2gen"] for name in ("peer.json", "ours.jsonl")]
    assert same[0] == same[1]  # neither has rare words as <unk>


def test_sentences_that_end_with_their_line_are_sentences(project: Path) -> None:
    """As in the file of predictions that ReXrank publishes as its example."""
    peer = rexrank()
    for entry in peer.values():
        for key in ("section_findings", "model_prediction"):
            entry[key] = entry[key] and entry[key].replace(". ", ".\n")
    Path("lines.json").write_text(json.dumps(peer))
    Path("peer.json").write_text(json.dumps(rexrank()))
    for name in ("lines", "peer"):
        file = f"{name}.json"
        invoke("score", file, "--references", file, "--keep", f"{name}.jsonl")
    lines, peers = (read_predictions(Path(f"{name}.jsonl")) for name in ("lines", "peer"))
    assert [(p.reference, p.generated) for p in lines] == [
        (p.reference, p.generated) for p in peers
    ]
    assert any(p.reference.count(" . ") for p in peers)


def test_a_file_with_references_of_its_own_says_how_to_use_them(project: Path) -> None:
    peer = {f"other {study}": entry for study, entry in rexrank().items()}
    Path("peer.json").write_text(json.dumps(peer))
    with pytest.raises(UserError, match="lacks 5 of 5 .* own references: --references peer.json"):
        invoke("score", "peer.json")


def test_no_number_is_cut_off_in_a_log(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "…" not in invoke("score", str(paths.PREDICTIONS))


def test_another_systems_reports_are_a_row_beside(project: Path) -> None:
    said = list(SAID)
    random.Random(0).shuffle(said)
    other = {s: {"model_prediction": as_prose(SAID[t])} for s, t in zip(SAID, said, strict=True)}
    Path("other.json").write_text(json.dumps(other))
    output = invoke("score", str(paths.PREDICTIONS), "--beside", "other.json", "--out", "d.json")
    beside = read_json(Path("d.json"))["scores"]["beside"]["r2gen"]
    expected = score([p.reference for p in predictions()], [SAID[t] for t in said])
    assert beside == pytest.approx(expected)
    assert "other system" in output


def test_studies_that_a_file_lacks(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    fewer = [*predictions()[1:], Prediction("s9", "A.", "a .", "a .", 0.0)]
    write_predictions(Path("fewer.jsonl"), fewer)
    with pytest.raises(UserError, match=r"lacks 1 of 5 studies, first s1.*--partial"):
        invoke("score", "fewer.jsonl")
    caplog.set_level(logging.INFO)
    invoke("score", "fewer.jsonl", "--partial", "--out", "details.json")
    assert read_json(Path("details.json"))["studies"] == 4
    assert "|n:4|" in read_json(Path("details.json"))["signatures"]["r2gen"]["CIDEr"]
    assert "1 studies that the references lack are left out" in caplog.text
    Path("lines.tok").write_text("a\nb\n")
    with pytest.raises(UserError, match="has 2 reports, but there are 5 references"):
        invoke("score", "lines.tok")
    Path("references.json").write_text(
        json.dumps({s: {"section_findings": text} for s, text in REPORTS.items()})
    )
    with pytest.raises(UserError, match="has only references"):
        invoke("score", "references.json")


def test_csv_of_rexranks_script_has_quotes_and_lines(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "report"])
        writer.writerow(["s1", 'He said "clear".\nNo edema.'])
    found = read_reports(tmp_path / "a.csv", "findings")
    assert found.generated == {"s1": 'He said "clear".\nNo edema.'}
