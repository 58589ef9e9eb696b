"""Bundles, and what a reporter makes of films."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from typer.testing import CliRunner

import uar
from tests.bundles import chest, judge_of, make_bundle, packed_films, rewritten, sealed
from tests.conftest import CLASS_NAME, ROOT, TINY, decode_params, override
from tests.film_files import save, save_dicom
from tests.hostile import CRASH, hostile
from uar.bundle.bundle import FORMAT, Bundle
from uar.bundle.doubts import DoubtfulFilms
from uar.bundle.index import StudyIndex
from uar.bundle.report import Finding, Sentence
from uar.bundle.reporter import Reporter
from uar.command import app
from uar.core.config import ModelParams
from uar.core.errors import UserError
from uar.core.params_file import known_keys
from uar.data.isolation import FilmDecoder
from uar.evaluation.calibration import AS_TRAINED
from uar.evaluation.clinical.labels import FINDINGS
from uar.inference.decoding import generate
from uar.inference.writing import ReportWriter
from uar.viewer.heatmap import heatmap, overlay


@pytest.fixture
def bundle(tiny_raw: dict[str, Any]) -> Bundle:
    return make_bundle(tiny_raw)


@pytest.fixture
def path(bundle: Bundle, tmp_path: Path) -> Path:
    bundle.save(tmp_path / "model.uar")
    return tmp_path / "model.uar"


def film(seed: int, side: int = 90) -> np.ndarray:
    """Blocks of gray, which differ between seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), np.uint8)
    return coarse.repeat(side // 6, axis=0).repeat(side // 6, axis=1)


# ---- the file


def test_a_bundle_survives_the_file(bundle: Bundle, path: Path) -> None:
    loaded = Bundle.load(path)
    assert loaded.vocabulary == bundle.vocabulary
    assert loaded.preprocessing == bundle.preprocessing
    assert (loaded.decode, loaded.provenance, loaded.card) == (
        bundle.decode, bundle.provenance, bundle.card,
    )  # fmt: skip
    films = [film(1), film(2)]
    assert Reporter(loaded).report(films).words == Reporter(bundle).report(films).words


def test_the_same_bundle_is_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "a.uar")
    bundle.save(tmp_path / "b.uar")
    assert (tmp_path / "a.uar").read_bytes() == (tmp_path / "b.uar").read_bytes()


def test_a_format_of_another_version_is_refused_naming_both(path: Path) -> None:
    def change(parts: dict[str, bytes]) -> None:
        manifest = json.loads(parts["manifest.json"]) | {"format": FORMAT + 1}
        parts["manifest.json"] = json.dumps(manifest).encode()

    with pytest.raises(UserError, match=rf"version {FORMAT + 1}; .* version {FORMAT}"):
        uar.load(rewritten(path, change))


def test_a_model_of_other_parameters_needs_a_format_of_its_own() -> None:
    """Counted up with every change of this list: an older bundle is then refused as older."""
    assert (FORMAT, " ".join(known_keys(ModelParams))) == (
        5,
        "lsu token_embedding integration basis basis_size fusion tir tir_scale d_model "
        "heads encoder_layers decoder_layers d_ff dropout word_dropout feature_dropout "
        "image_dropout visual_pool findings extractor.network extractor.weights extractor.depths "
        "extractor.fine_tune",
    )


@pytest.mark.parametrize(
    "part", ["model.safetensors", "vocabulary.json", "encoder.safetensors", "card.md"]
)
def test_a_changed_byte_of_any_part_is_found(path: Path, part: str) -> None:
    old = zipfile.ZipFile(path).read(part)
    new = old[:-1] + bytes([old[-1] ^ 1])

    with pytest.raises(UserError) as refusal:
        uar.load(rewritten(path, lambda parts: parts.update({part: new})))
    for data in (old, new):
        assert hashlib.sha256(data).hexdigest()[:12] in str(refusal.value)
    assert part in str(refusal.value)


def test_parts_of_two_runs_are_refused_naming_both(
    tiny_raw: dict[str, Any], bundle: Bundle, path: Path, tmp_path: Path
) -> None:
    other = make_bundle(tiny_raw, seed=1)
    other.save(tmp_path / "other.uar")
    encoder = zipfile.ZipFile(tmp_path / "other.uar").read("encoder.safetensors")

    def change(parts: dict[str, bytes]) -> None:
        parts["encoder.safetensors"] = encoder
        sealed(parts)

    with pytest.raises(UserError) as refusal:
        uar.load(rewritten(path, change))
    for one in (bundle, other):
        assert one.tokenizer is not None
        assert one.tokenizer.fingerprint()[:12] in str(refusal.value)


def test_sizes_of_two_runs_are_refused(bundle: Bundle) -> None:
    for changes, both in (
        ({"vocabulary": replace(bundle.vocabulary, words=("a", "b"))}, r"13 words.* 6"),
        ({"preprocessing": bundle.preprocessing.model_copy(update={"crop": 40})}, r"32 tok.* 50"),
        ({"tokenizer": None}, r"tokenizer is encoder none"),
    ):
        with pytest.raises(UserError, match=both):
            replace(bundle, **changes)


def test_an_index_of_another_run_is_refused_naming_both(
    tiny_raw: dict[str, Any], tmp_path: Path
) -> None:
    mine, other = tmp_path / "a.uar", tmp_path / "b.uar"
    for seed, path in enumerate((mine, other)):
        make_bundle(tiny_raw, seed, index=True).save(path)
    parts = zipfile.ZipFile(other)
    models = [zipfile.ZipFile(path).read("model.safetensors") for path in (mine, other)]

    def change(mine: dict[str, bytes]) -> None:
        mine["index.safetensors"] = parts.read("index.safetensors")
        sealed(mine)

    with pytest.raises(UserError, match="mixes parts of two runs: the index was") as refusal:
        uar.load(rewritten(mine, change))
    for model in models:
        assert hashlib.sha256(model).hexdigest()[:12] in str(refusal.value)


def test_an_index_of_another_width_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UserError, match="features have 16 numbers, but the index's have 5"):
        replace(bundle, index=StudyIndex.of(torch.randn(2, 5), ["a", "b"], None))


def test_other_files_are_no_bundles(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        uar.load(tmp_path / "none.uar")
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a bundle of this project") as refusal:
            uar.load(path)
        assert not CLASS_NAME.search(str(refusal.value))


def test_loading_executes_nothing(path: Path, tmp_path: Path) -> None:
    """A pickle in place of weights, even under its right hash, is not run."""
    witness = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (witness,)

    for part in ("model.safetensors", "encoder.safetensors", "vocabulary.json"):
        original = path.read_bytes()

        def change(parts: dict[str, bytes], part: str = part) -> None:
            parts[part] = pickle.dumps(Evil())
            sealed(parts)

        with pytest.raises(UserError) as refusal:
            uar.load(rewritten(path, change))
        assert not CLASS_NAME.search(str(refusal.value))
        path.write_bytes(original)
    assert not witness.exists()
    pickle.loads(pickle.dumps(Evil()))
    assert witness.exists()  # it would have


def test_an_unnamed_part_is_refused(path: Path) -> None:
    with pytest.raises(UserError, match="more.py"):
        uar.load(rewritten(path, lambda parts: parts.update({"more.py": b"1"})))


def test_importing_uar_is_light() -> None:
    code = "import sys, uar; print(sorted({'torch', 'numpy', 'fastapi'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n"


# ---- similar studies and findings


def test_the_most_similar_training_studies(tiny_raw: dict[str, Any], path: Path) -> None:
    """By the cosine of F(I), most alike first, after the file as before it."""
    bundle = make_bundle(tiny_raw, index=True)
    bundle.save(path)
    reporter = uar.load(path)
    study = reporter.prepare([film(1), film(2)])
    model = bundle.checkpoint.build().eval()
    with torch.no_grad():
        feature = model.image_features(study.visual[None], model.tables()).mean(dim=1)[0]
    assert bundle.index is not None
    cosines = F.cosine_similarity(bundle.index.features, feature[None])
    similar = reporter.write([study])[0].similar
    assert [s.study_id for s in similar] == [f"train{i}" for i in cosines.argsort(descending=True)][
        :5
    ]
    assert [s.cosine for s in similar] == pytest.approx(
        cosines.sort(descending=True).values[:5].tolist(), abs=1e-5
    )
    assert [s.report for s in similar] == [f"Report of {s.study_id}." for s in similar]


def test_a_report_at_the_prompt_is_short(bundle: Bundle) -> None:
    shown = repr(Reporter(bundle).report([film(1), film(2)]))
    assert "log_probability=" in shown
    assert "attention=" not in shown
    assert "films=" not in shown


def test_without_an_index_nothing_is_similar(bundle: Bundle) -> None:
    report = Reporter(bundle).report([film(1), film(2)])
    assert report.similar == () and report.as_json()["similar"] == []


def test_an_index_without_texts_names_the_studies(tiny_raw: dict[str, Any], path: Path) -> None:
    bundle = make_bundle(tiny_raw, index=True)
    assert bundle.index is not None
    replace(bundle, index=replace(bundle.index, reports=None)).save(path)
    assert b"Report of" not in path.read_bytes()
    similar = uar.load(path).report([film(1), film(2)]).similar
    assert [s.report for s in similar] == [None] * 5 and similar[0].study_id


def test_equally_similar_studies_keep_their_order() -> None:
    index = StudyIndex.of(torch.tensor([[0.0, 1], [2, 0], [5, 0], [1, 1]]), list("abcd"), None)
    (found,) = index.nearest(torch.tensor([[3.0, 0.0]]), 3)
    assert [s.study_id for s in found] == ["b", "c", "d"]
    assert [s.cosine for s in found] == pytest.approx([1, 1, 0.5**0.5])


def test_findings_are_the_heads(tiny_raw: dict[str, Any], path: Path) -> None:
    tiny_raw["model"]["findings"] = True
    bundle = make_bundle(tiny_raw)
    bundle.save(path)
    reporter = uar.load(path)
    study = reporter.prepare([film(1), film(2)])
    report = reporter.write([study])[0]
    model = bundle.checkpoint.build().eval()
    with torch.no_grad():
        logits = model.finding_logits(study.visual[None], model.tables())[0]
    assert [finding.name for finding in report.findings] == list(FINDINGS)
    assert [f.probability for f in report.findings] == pytest.approx(
        logits.sigmoid().tolist(), abs=1e-6
    )
    assert [f.threshold for f in report.findings] == pytest.approx(
        np.linspace(0.2, 0.8, len(FINDINGS)), abs=1e-6
    )
    assert report.as_json()["findings"][0]["probability"] == report.findings[0].probability


def test_without_a_findings_head_only_what_is_said_is_listed(bundle: Bundle) -> None:
    report = replace(
        Reporter(bundle).report([film(1), film(2)]),
        sentences=(Sentence("No pleural effusion.", 0, 3),),
    )
    assert report.findings == (Finding("Pleural Effusion", "negative", None, None),)


# ---- films


def test_every_kind_of_source_gives_the_same_report(bundle: Bundle, tmp_path: Path) -> None:
    reporter = Reporter(bundle)
    pixels = [film(1), film(2)]
    files = [save(tmp_path / f"{i}.png", p) for i, p in enumerate(pixels)]
    expected = reporter.report(pixels)
    sources: list[list[Any]] = [
        files,
        [str(file) for file in files],
        [file.read_bytes() for file in files],
        [io.BytesIO(file.read_bytes()) for file in files],
    ]
    for source in sources:
        found = reporter.report(source)
        assert found.text == expected.text
        assert found.log_probability == expected.log_probability


def test_a_batch_says_what_each_study_says_alone(bundle: Bundle) -> None:
    reporter = Reporter(bundle)
    studies = [[film(2 * i), film(2 * i + 1)] for i in range(5)]
    alone = [reporter.report(study).text for study in studies]
    assert [report.text for report in reporter.reports(studies, batch_size=2)] == alone
    assert len(set(alone)) > 1


def test_threads_share_a_reporter(bundle: Bundle) -> None:
    """The server of a page that was closed may still write while another one's request comes."""
    reporter = Reporter(bundle)
    studies = [[film(10 * i + j) for j in range(2)] for i in range(8)]
    alone = [reporter.report(study) for study in studies]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(reporter.report, studies * 3))
    for report, expected in zip(together, alone * 3, strict=True):
        assert report.text == expected.text
        assert np.array_equal(report.attention, expected.attention)


def test_sentences_and_attention_fit_the_words(bundle: Bundle) -> None:
    report = Reporter(bundle).report([film(3), film(4)])
    assert report.attention.shape == (len(report.words), 2, 4, 4)
    np.testing.assert_allclose(report.attention.mean(axis=(1, 2, 3)), 1, rtol=1e-4)
    spans = [(s.start, s.end) for s in report.sentences]
    assert spans == sorted(spans) and spans[-1][1] == len(report.words)
    for sentence in report.sentences:
        assert sentence.text[0].isupper()
        assert sentence.text.endswith(".") == (report.words[sentence.end - 1] == ".")


def test_reports_are_guided_as_the_bundle_says(tiny_raw: dict[str, Any]) -> None:
    tiny_raw["model"]["image_dropout"] = 0.5
    plain = make_bundle(tiny_raw)
    model = plain.checkpoint.build()
    weights = {**plain.checkpoint.weights, "no_image": torch.randn_like(model.no_image) * 3}
    decode = plain.decode.model_copy(update={"guidance": 2.0})
    guided = replace(plain, checkpoint=replace(plain.checkpoint, weights=weights), decode=decode)
    model.load_state_dict(weights)
    reporter, changed = Reporter(guided), 0
    for seed in range(4):
        prepared = reporter.prepare([film(seed), film(seed + 9)])
        [report] = reporter.write([prepared])
        visual, beams, penalty = prepared.visual[None], decode.beam_size, decode.length_penalty
        [expected] = generate(model.eval(), visual, beams, penalty, guidance=2.0)
        assert list(report.words) == plain.vocabulary.decode(expected.ids).split()
        changed += expected.ids != generate(model, visual, beams, penalty)[0].ids
    assert changed


def test_reports_are_chosen_among_samples_as_the_bundle_says(
    tiny_raw: dict[str, Any], tmp_path: Path
) -> None:
    plain, path = make_bundle(tiny_raw), tmp_path / "model.uar"
    decode = decode_params(
        choose="samples", samples=5, temperature=1.5, findings_weight=50.0, guidance=0.0
    )
    replace(plain, decode=decode, judge=judge_of(plain.tokenizer), seed=4).save(path)
    first, bundle = path.read_bytes(), Bundle.load(path)
    bundle.save(path)
    assert path.read_bytes() == first
    assert (bundle.decode, bundle.seed) == (decode, 4)
    reporter = Reporter(bundle)
    studies = [reporter.prepare([film(seed), film(seed + 9)]) for seed in range(4)]
    visual = torch.stack([study.visual for study in studies])
    writer = ReportWriter(plain.checkpoint.build().eval(), plain.vocabulary, decode, 4)
    assert bundle.judge is not None
    expected = writer.write(
        visual, None, AS_TRAINED.probabilities(bundle.judge.logits(visual.numpy()))
    )
    for study, report, one in zip(studies, reporter.write(studies), expected, strict=True):
        assert list(report.words) == plain.vocabulary.decode(one.ids).split()
        assert reporter.write([study])[0].words == report.words


def test_a_bundle_that_writes_by_beam_search_says_nothing_of_samples(
    tiny_raw: dict[str, Any], tmp_path: Path
) -> None:
    """Its bytes are those of bundles of before there were samples, which still open."""
    bundle, path = make_bundle(tiny_raw), tmp_path / "model.uar"
    bundle.save(path)
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert set(manifest["decode"]) == {"beam_size", "length_penalty", "guidance", "batch_size"}
    assert "seed" not in manifest
    assert Bundle.load(path).decode == bundle.decode


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "needs a judge of findings, but the bundle has none"),
        ({"encoder_sha256": "0" * 64}, "the judge reads tokens of encoder 000000000000"),
        ({"codebook": 1024}, "the judge is for codes, views and findings"),
        ({"findings": FINDINGS[::-1]}, "the judge is for codes, views and findings"),
    ],
)
def test_a_judge_that_does_not_fit_is_refused(
    tiny_raw: dict[str, Any], changes: dict[str, Any] | None, message: str
) -> None:
    plain = make_bundle(tiny_raw)
    judge = None if changes is None else replace(judge_of(plain.tokenizer), **changes)
    with pytest.raises(UserError, match=message):
        replace(plain, decode=decode_params(choose="samples", guidance=0.0), judge=judge)


@pytest.mark.parametrize(("missing", "warned"), [("error", 1), ("repeat", 0), ("mask", 0)])
def test_one_film_where_two_are_asked(tiny_raw: dict[str, Any], missing: str, warned: int) -> None:
    reporter = Reporter(make_bundle(tiny_raw, missing_view=missing))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = reporter.report(film(1))
    assert len(caught) == len(report.notes) == warned
    assert report.present.tolist() == [True, False]
    repeated = np.array_equal(report.films[0], report.films[1])
    assert repeated == (missing != "mask")
    if missing == "mask":
        assert report.attention[:, 1].max() == 0


def test_views_in_the_headers_order_the_films(bundle: Bundle, tmp_path: Path) -> None:
    frontal = save_dicom(tmp_path / "f.dcm", film(1), ViewPosition="PA")
    lateral = save_dicom(tmp_path / "l.dcm", film(2), ViewPosition="LL")
    reporter = Reporter(bundle)
    right = reporter.prepare([frontal, lateral])
    turned = reporter.prepare([lateral, frontal])
    assert turned.visual.equal(right.visual)
    assert not right.notes and "was put second" in turned.notes[0]


def test_a_huge_dicom_film(bundle: Bundle, tmp_path: Path) -> None:
    ramp = np.linspace(0, 4095, 4000, dtype=np.uint16)[None].repeat(4000, axis=0)
    path = save_dicom(tmp_path / "big.dcm", ramp)
    prepared = Reporter(bundle).prepare([path, path])
    columns = prepared.films[0].astype(int).mean(axis=0)
    assert (np.diff(columns) > 0).all() and columns[0] < 10 and columns[-1] > 245


@pytest.mark.parametrize(
    ("films", "reason"),
    [
        ([], "0 films"),
        ([film(1)] * 3, "3 films for one study, but this model takes one to 2"),
        ([np.zeros((2, 3, 3))], r"film 1: an array \(2, 3, 3\)"),
        ([np.full((3, 3), np.nan)], "not finite"),
        ([np.zeros((0, 3))], r"\(0, 3\)"),
        ([np.full((3, 3), 7.5)], "film 1: every pixel has the same value"),
        ([np.zeros((3, 3), np.uint8)], "film 1: every pixel has the same value"),
        ([b"junk"], "film 1: not a PNG, JPEG or DICOM"),
        (["none.png"], "none.png: no such file"),
    ],
)
def test_bad_films_are_named(bundle: Bundle, films: list[Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Reporter(bundle).report(films)


def test_a_film_that_crashes_its_decoder_costs_no_other_a_report(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the source, files are decoded in another process."""
    monkeypatch.setattr(
        "uar.bundle.reporter.FilmDecoder", functools.partial(FilmDecoder, decode=hostile)
    )
    reporter, crashing = Reporter(bundle), tmp_path / "crash.png"
    crashing.write_bytes(CRASH)
    for source in (CRASH, crashing, io.BytesIO(CRASH)):
        with pytest.raises(UserError, match=": decoding it crashed or ran out of memory"):
            reporter.report([source])
    good = save(tmp_path / "a.png", film(1))
    assert reporter.report([good, film(2)]).text == Reporter(bundle).report([good, film(2)]).text


def test_a_script_without_a_guard_runs_once(path: Path, tmp_path: Path) -> None:
    """`if __name__ == "__main__"` need not be there for a film to be decoded."""
    save(tmp_path / "a.png", film(1))
    (tmp_path / "script.py").write_text(
        "import uar\nprint('begun')\nprint(uar.load('model.uar', 'cpu').report('a.png').text)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "script.py"], cwd=tmp_path, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    begun, text = done.stdout.splitlines()
    assert (begun, done.stderr) == ("begun", "")
    with pytest.warns(UserWarning, match="Only one film was given"):
        assert text == uar.load(path, "cpu").report(tmp_path / "a.png").text


def test_a_path_may_be_no_utf_8(bundle: Bundle, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Path(name).write_bytes(b"no film")
    with pytest.raises(UserError) as caught:
        Reporter(bundle).report([name])
    assert str(caught.value).startswith(f"{name}: not a PNG")


def test_in_a_notebook(bundle: Bundle) -> None:
    report = Reporter(bundle).report([film(1), film(2)])
    html = report._repr_html_()
    assert html.count("<img") == 2 and report.sentences[0].text in html
    assert "research use only" in html and report.origin in html


def test_heat_is_clear_where_attention_is_uniform() -> None:
    gray = np.full((8, 8), 90, np.uint8)
    attention = np.array([[1.0, 0.2], [1.0, 4.0]])
    drawn = np.asarray(overlay(gray, attention, 4.0))
    assert (drawn[:128] == 90).all() and (drawn[128:, :128] == 90).all()
    assert (drawn[-1, -1] != 90).any()


def test_a_heatmap_has_a_row_for_each_sentence(bundle: Bundle) -> None:
    report = Reporter(bundle).report([film(1), film(2)])
    one = heatmap(replace(report, sentences=report.sentences[:1])).height
    assert heatmap(replace(report, sentences=report.sentences[:1] * 3)).height > 2 * one


# ---- films unlike those of training


@pytest.fixture(scope="module")
def wary_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that knows what films of training are like, and has a findings head."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in TINY.items():
        override(raw, key, value)
    raw["model"]["findings"] = True
    path = tmp_path_factory.mktemp("wary") / "model.uar"
    make_bundle(raw, seed=2, likeness=True).save(path)
    return path


def test_likeness_evidence_and_example_survive_the_file(wary_path: Path) -> None:
    bundle = Bundle.load(wary_path)
    assert bundle.likeness is not None and bundle.example is not None
    assert bundle.evidence is not None and bundle.evidence.written == {"Cardiomegaly": [3, 7]}
    assert bundle.example.views == ("frontal", "lateral")
    np.testing.assert_array_equal(bundle.example.films, packed_films(7))
    again = wary_path.with_name("again.uar")
    bundle.save(again)
    assert again.read_bytes() == wary_path.read_bytes()


def test_a_likeness_of_another_model_is_refused(bundle: Bundle, wary_path: Path) -> None:
    likeness = Bundle.load(wary_path).likeness
    assert likeness is not None and likeness.token_costs is not None
    fewer = replace(likeness, token_costs=likeness.token_costs[:, :5])
    with pytest.raises(UserError, match=r"likeness is for 2 views and tokens \(2, 5, 512\)"):
        replace(bundle, likeness=fewer)


def test_films_like_those_of_training_get_their_report(wary_path: Path) -> None:
    report = uar.load(wary_path).report([chest(1000), chest(1000, 1)])
    assert report.doubts == () and len(report.likeness) == 2
    assert "within the limits" in report.text_with_caveats
    assert report.text in report.text_with_caveats and report.origin in report.text_with_caveats


def test_other_films_get_none_unless_it_is_forced(wary_path: Path) -> None:
    reporter = uar.load(wary_path)
    with pytest.raises(DoubtfulFilms, match="film 1: unlike the frontal films") as refusal:
        reporter.report(film(1))
    with pytest.raises(DoubtfulFilms):
        list(reporter.reports([[chest(1000)], [film(1)]]))
    forced = reporter.report(film(1), force=True)
    assert forced.text and forced.doubts == refusal.value.doubts
    assert forced.doubts[0] in forced.text_with_caveats
    assert json.loads(json.dumps(forced.as_json()))["doubts"] == list(forced.doubts)


def test_a_mirrored_film_is_named_as_such(wary_path: Path) -> None:
    with pytest.raises(DoubtfulFilms, match="film 1: it looks mirrored"):
        uar.load(wary_path).report(np.fliplr(chest(1000)).copy())


@pytest.mark.parametrize(
    ("tags", "doubt", "note"),
    [
        ({"Modality": "DX", "BodyPartExamined": "CHEST"}, None, None),
        ({"Modality": "CT"}, r"says CT \(computed tomography\), not a radiograph", None),
        ({"Modality": "MR"}, "says MR", None),
        ({"Modality": "DOE^JANE"}, None, "names a modality other than a radiograph's"),
        ({"BodyPartExamined": "HAND"}, None, "names HAND, not the chest"),
        ({"BodyPartExamined": "DOE^JANE"}, None, "names another body part, not the chest"),
    ],
)
def test_what_a_header_says_of_the_picture(
    bundle: Bundle, tmp_path: Path, tags: dict[str, str], doubt: str | None, note: str | None
) -> None:
    path = save_dicom(tmp_path / "f.dcm", film(1), **tags)
    prepared = Reporter(bundle).prepare([path, path])
    assert bool(prepared.doubts) == bool(doubt)
    for found, wanted in ((prepared.doubts, doubt), (prepared.notes, note)):
        assert wanted is None or re.search(wanted, " ".join(found))
    assert "DOE" not in " ".join((*prepared.doubts, *prepared.notes))


def test_a_colour_picture_and_a_tiny_one_are_doubtful(bundle: Bundle, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    reporter = Reporter(bundle)
    for path in (
        save(tmp_path / "c.png", colours),
        save(tmp_path / "c.jpg", colours),
        save_dicom(tmp_path / "c.dcm", colours, SamplesPerPixel=3, PlanarConfiguration=0,
                   PhotometricInterpretation="RGB"),
    ):  # fmt: skip
        assert "a colour picture" in reporter.prepare([path]).doubts[0]
    gray = save(tmp_path / "g.png", np.dstack([film(1)] * 3))
    assert reporter.prepare([gray]).doubts == ()
    [doubt] = reporter.prepare([save(tmp_path / "t.png", film(1)[:15, :90])]).doubts
    assert doubt.endswith("15 pixels along its shorter side; the model reads 32.")


@pytest.mark.parametrize(
    ("positions", "views", "captions", "note"),
    [
        ((None, None), None, ("film 1, taken as frontal", "film 2, taken as lateral"), None),
        (("PA", None), None, ("frontal", "film 2, taken as lateral"), None),
        ((None, None), ("frontal", "lateral"), ("frontal", "lateral"), None),
        (("LL", "AP"), ("frontal", "lateral"), ("frontal", "lateral"), "was put second"),
        (("PA", "AP"), None, ("frontal", "film 2, taken as lateral"), "Both films are frontal"),
        (("LL",), None, ("film 1, taken as frontal", "lateral"), "Only a lateral film was given"),
    ],
)
def test_which_view_a_film_is_taken_for(
    tiny_raw: dict[str, Any],
    tmp_path: Path,
    positions: tuple[str | None, ...],
    views: tuple[str, ...] | None,
    captions: tuple[str, ...],
    note: str | None,
) -> None:
    paths = [
        save_dicom(tmp_path / f"{i}.dcm", film(i), **({"ViewPosition": p} if p else {}))
        for i, p in enumerate(positions)
    ]
    prepared = Reporter(make_bundle(tiny_raw, missing_view="repeat")).prepare(paths, views=views)
    assert prepared.captions == captions
    assert (note is None and not prepared.notes) or (note and note in prepared.notes[0])


def test_a_written_finding_carries_its_count(wary_path: Path) -> None:
    report = uar.load(wary_path).report([chest(1000), chest(1000, 1)])
    said = replace(report, sentences=(Sentence("The heart is enlarged.", 0, 4),))
    found = {finding.name: finding for finding in said.findings}
    assert (found["Cardiomegaly"].right, found["Cardiomegaly"].written) == (3, 7)
    assert found["Edema"].written is None  # not said


def test_a_sentence_is_as_sure_as_its_claims_together(wary_path: Path) -> None:
    """By hand from the judge's logits: what is asserted, what is denied, and neither."""
    reporter = uar.load(wary_path)
    films = [chest(1000), chest(1000, 1)]
    tokens = reporter.prepare(films).visual[None].numpy()
    judge, texts = reporter.bundle.judge, (
        "The heart is enlarged.", "No effusion or pneumothorax.", "Comparison is made."
    )  # fmt: skip
    assert judge is not None
    logit = dict(zip(FINDINGS, judge.logits(tokens)[0], strict=True))

    def likely(name: str, slope: float, step: float) -> float:
        shift = step * FINDINGS.index(name)
        return float(1 / (1 + np.exp(-(slope * logit[name] + shift))))

    enlarged = likely("Cardiomegaly", 1.5, 1 / 8)
    clear = 1 - likely("Pleural Effusion", 0.8, -1 / 4)
    clear *= 1 - likely("Pneumothorax", 0.8, -1 / 4)
    written = reporter.report(films)
    report = replace(written, sentences=tuple(Sentence(text, 0, 1) for text in texts))
    assert report.certainties == (pytest.approx(enlarged), pytest.approx(clear), None)
    stated = [sentence["certainty"] for sentence in report.as_json()["sentences"]]
    assert stated == list(report.certainties)
    assert f"by validation, {100 * enlarged:.0f} of 100 such sentences" in report._repr_html_()
    for unknown in (
        replace(report, doubts=("no chest film",)),
        replace(report, evidence=None),
        replace(report, judged=None),
    ):
        assert unknown.certainties == (None, None, None)


def test_probabilities_are_scaled_as_on_validation(wary_path: Path) -> None:
    bundle = Bundle.load(wary_path)
    assert bundle.evidence is not None
    plain = replace(bundle, evidence=bundle.evidence.model_copy(update={"scaling": None}))
    films = [chest(1000), chest(1000, 1)]
    calibrated, raw = (Reporter(b).report(films) for b in (bundle, plain))
    assert calibrated.probabilities is not None and raw.probabilities is not None
    logits = torch.tensor(raw.probabilities).logit()
    assert calibrated.probabilities == pytest.approx((logits / 2 - 1).sigmoid().tolist(), abs=1e-5)
    for report in (calibrated, raw):  # the same findings are found
        assert report.thresholds is not None and report.probabilities is not None
    above = [
        [p > t for p, t in zip(r.probabilities or (), r.thresholds or (), strict=True)]
        for r in (calibrated, raw)
    ]
    assert above[0] == above[1]


# ---- the command


def run(*arguments: str, **options: Any) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, arguments)], **options)


def test_the_command_says_what_python_says(bundle: Bundle, path: Path, tmp_path: Path) -> None:
    files = [save(tmp_path / f"{i}.png", film(i)) for i in (1, 2)]
    expected = Reporter(bundle).report(files)
    done = run(*files, "--bundle", path)
    assert (done.exit_code, done.stdout) == (0, expected.text + "\n")
    done = run(*files, "--bundle", path, "--json", "--heatmap", tmp_path / "h.png")
    assert json.loads(done.stdout) == json.loads(json.dumps(expected.as_json()))
    assert Image.open(tmp_path / "h.png").size == heatmap(expected).size


def test_what_the_system_refuses_the_command_is_a_sentence(path: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", film(1))
    (tmp_path / "folder").mkdir()
    for out, named in {
        file / "h.png": f"{file}: File exists",
        tmp_path / "folder": f"{tmp_path / 'folder'}: Is a directory",
        tmp_path / ("x" * 300): "File name too long",
    }.items():
        done = run(file, "--bundle", path, "--heatmap", out)
        assert isinstance(done.exception, UserError)
        assert named in str(done.exception)


def test_the_command_reads_stdin(path: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", film(1))
    from_file = run(file, "--bundle", path).stdout
    assert run("-", "--bundle", path, input=file.read_bytes()).stdout == from_file != ""


def test_bad_films_of_many_are_named_and_the_rest_goes_on(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "many"
    for i in (1, 2):
        save(folder / f"a/{i}.png", film(i))
    save(folder / "c.png", film(3))
    (folder / "b.png").write_bytes(b"junk")
    done = run(folder, "--bundle", path)
    assert done.exit_code == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["a", "c.png"]
    assert "b.png: not a PNG, JPEG or DICOM" in caplog.text
    (folder / "b.png").unlink()
    assert run(folder, "--bundle", path).exit_code == 0


def test_a_table_of_studies(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in (1, 2):
        save(tmp_path / f"films/{i}.png", film(i))
    table = tmp_path / "t.csv"
    table.write_text("study,frontal,lateral\ns1,films/1.png,films/2.png\ns2,films/9.png,\n")
    done = run(table, "--bundle", path, "--json")
    assert [json.loads(line)["study"] for line in done.stdout.splitlines()] == ["s1"]
    assert done.exit_code == 1 and "s2: " in caplog.text and "9.png: no such file" in caplog.text
    for content, message in {
        "id,film\n1,2\n": "found columns id, film; expected study, frontal, lateral",
        "study,frontal\ns1,films/1.png,films/2.png\n": "row 1.*found 3 cells, expected 2",
        "study,frontal,lateral\ns1,films/1.png\n": "row 1.*found 2 cells, expected 3",
    }.items():
        table.write_text(content)
        error = run(table, "--bundle", path).exception
        assert isinstance(error, UserError) and re.search(message, str(error))


def test_the_command_refuses_a_stranger_unless_it_is_forced(
    wary_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger, chests = save(tmp_path / "s/a.png", film(1)), save(tmp_path / "s/b.png", chest(1000))
    done = run(stranger, "--bundle", wary_path)
    assert (done.exit_code, done.stdout) == (3, "")
    assert "a.png: unlike the frontal films" in caplog.text and "--force" in caplog.text
    done = run(stranger, "--bundle", wary_path, "--json")
    refused = json.loads(done.stdout)
    assert done.exit_code == 3 and refused["text"] is None
    assert refused["doubts"] and refused["likeness"][0]["strangeness"] > 1
    done = run(stranger, "--bundle", wary_path, "--json", "--force")
    forced = json.loads(done.stdout)
    assert done.exit_code == 0 and forced["text"] and forced["doubts"] == refused["doubts"]
    done = run(tmp_path / "s", "--bundle", wary_path)  # of many, the others get theirs
    assert done.exit_code == 3 and [line[:6] for line in done.stdout.splitlines()] == ["b.png:"]
    assert run(chests, "--bundle", wary_path).exit_code == 0
    assert "research use only" in caplog.text


def test_a_table_says_which_view_a_film_is(path: Path, tmp_path: Path) -> None:
    save(tmp_path / "l.png", film(1))
    table = tmp_path / "t.csv"
    table.write_text("study,frontal,lateral\ns1,,l.png\ns2,l.png,l.png\n")
    done = run(table, "--bundle", path, "--json")
    alone, both = (json.loads(line) for line in done.stdout.splitlines())
    assert "Only a lateral film was given" in alone["notes"][0]
    assert both["films"] == ["frontal", "lateral"]
