"""What stands beside the code: its paths exist, its versions agree, its pages build."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import uar
from tests.conftest import ROOT, committed

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks/README.md"])
_LINK = re.compile(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)")


def missing(page: Path, text: str) -> list[str]:
    """Links to files that are not there."""
    return [link for link in _LINK.findall(text) if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    assert missing(page, page.read_text(encoding="utf-8")) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = "[a](README.md) [b](https://x.org) [c](nowhere.md#d) [e](#f)"
    assert missing(ROOT / "README.md", text) == ["nowhere.md"]


def test_readmes_results_are_those_of_the_demos_run() -> None:
    """Committed, as the README; the interval is in details.json, which git does not hold."""
    metrics = json.loads(committed("evaluation/metrics.json"))
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Results")[1]
    sentence = text.split("Every x86-64")[0].replace("\n", " ")
    said = re.findall(r"(?<![\d.–])\d\.\d{3}(?!\d)", sentence)
    names = ("BLEU-4", "CIDEr", "const_B4", "const_C", "shuf_B4", "shuf_C")
    # metrics.json is rounded to four decimals already
    assert list(map(float, said)) == pytest.approx([metrics[name] for name in names], abs=5.5e-4)


def test_the_papers_page_says_what_the_presets_have() -> None:
    """Its table of settings beyond the paper, whose last columns are the demo and iu_xray_small."""
    text = (ROOT / "docs/paper.md").read_text(encoding="utf-8").split("## Beyond the paper")[1]
    rows = re.findall(r"^\| `([\w.]+)`.* \| (\S+) \| (\S+) \|$", text, flags=re.MULTILINE)
    assert len(rows) > 5
    presets = [
        yaml.safe_load((ROOT / f"presets/{name}.yaml").read_text())
        for name in ("demo", "iu_xray_small")
    ]
    for key, *said in rows:
        section, name = key.split(".")
        for preset, value in zip(presets, said, strict=True):
            assert yaml.safe_load(value.strip("`")) == preset[section][name], (key, said)
    full = yaml.safe_load((ROOT / "presets/iu_xray.yaml").read_text())
    for key, *_ in rows:
        section, name = key.split(".")
        assert full[section][name] in (0, 1, None, "sum")  # as printed, or off


def test_every_page_has_its_place_on_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text().replace("!!", ""))
    placed = re.findall(r"[\w/]+\.md", str(site["nav"]))
    written = [page.name for page in (ROOT / "docs").glob("*.md")]
    made = ["contributing.md", "changes.md", "parameters.md"]  # by docs/hooks.py
    assert sorted(placed) == sorted([*written, *made])


def test_contributing_names_what_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:uar|pipeline|tests|presets|docs|benchmarks)/[\w./]*)`", text)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_version_is_said_once() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == uar.__version__


def test_pages_build_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    home = (tmp_path / "index.html").read_text()
    assert 'href="scale/"' in home
    assert 'href="contributing/"' in home
    links = re.findall(r'<a [^>]*href="([^"]+)"', home)
    assert [link for link in links if link.startswith("../")] == []
