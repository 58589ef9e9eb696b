"""A remote to look at: a second clone sees the page and the figures before anything is trained."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import paths
from tests.conftest import ROOT
from uar.core.files import sha256

LOOKED_AT = (paths.PAGE, paths.PREDICTIONS, paths.CURVES)


def run(folder: Path, *command: str) -> str:
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *arguments)


def write_invented_outputs(project: Path) -> None:
    """Every output of dvc.yaml, with content of its own: what DVC moves is bytes."""
    for stage in yaml.safe_load((project / "dvc.yaml").read_text())["stages"].values():
        for entry in [*stage["outs"], *stage.get("metrics", [])]:
            out = project / (entry if isinstance(entry, str) else next(iter(entry)))
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.suffix == ".json":
                out.write_text("{}")
            elif out.suffix:
                out.write_text(f"content of {out.name}")
            else:
                out.mkdir(exist_ok=True)
    for name in ("curves", "figure3"):
        shutil.copy(ROOT / "docs/images/reports.png", project / paths.FIGURES / f"{name}.png")
    for folder in (paths.FIGURES_PDF, paths.FIGURE_NUMBERS, paths.LOGS / "stage_one/plots"):
        (project / folder / "something").write_text("content")
    (project / paths.LOGS / "stage_two/plots/something").write_text("content")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository whose outputs are in a remote that is a local folder."""
    project = tmp_path_factory.mktemp("published") / "project"
    tracked = run(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("results/", "docs/", "dvc.lock")):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
    write_invented_outputs(project)
    run(project, "git", "init", "--quiet")
    dvc(project, "config", "cache.dir", str(project.parent / "cache"), "--local")
    dvc(project, "commit", "--force")
    dvc(project, "remote", "add", "--default", "store", str(project.parent / "store"))
    dvc(project, "push")
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message", "Outputs of this run")
    return project


def test_a_second_clone_sees_page_and_figures_by_pull(published: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(published), str(clone))
    assert not any((clone / path).exists() for path in (*LOOKED_AT, paths.FIGURES))
    dvc(clone, "pull", str(paths.PAGE), str(paths.FIGURES))
    assert sha256(clone / paths.PAGE) == sha256(published / paths.PAGE)
    assert not (clone / paths.PREDICTIONS).exists()  # what was not asked for
    figures = sorted(path.name for path in (published / paths.FIGURES).iterdir())
    assert sorted(path.name for path in (clone / paths.FIGURES).iterdir()) == figures
    dvc(clone, "pull", "evaluate", "analyze")
    for path in LOOKED_AT:
        assert sha256(clone / path) == sha256(published / path)
    assert not (clone / paths.STAGE_THREE).exists()  # nothing was trained, nor its result needed


def test_plots_of_a_clone_need_no_network(published: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(published), str(clone))
    dvc(clone, "pull", str(paths.FIGURES))
    dvc(clone, "plots", "show")
    page = (clone / "dvc_plots/index.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "curves" in page.split('src="')[1]  # before the paper's figures
    assert "img { max-width: 100%" in page  # .dvc/plots.html: no figure is cut off
    assert "{" not in page.split("</style>")[1]  # whose placeholders are all filled


def test_nothing_is_left_to_run_after_a_pull(published: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(published), str(clone))
    dvc(clone, "pull")
    assert "up to date" in dvc(clone, "status")
