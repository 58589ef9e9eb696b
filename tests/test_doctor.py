"""What `python -m pipeline doctor` finds and puts right, in a DVC project made for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from dvc.exceptions import ReproductionError
from dvc.repo import Repo
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.tools import doctor
from tests.conftest import ROOT
from uar.core.errors import UserError

RWLOCK = Path(".dvc/tmp/rwlock")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One stage that copies a file, run and in the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    with Repo.init(no_scm=True) as repo:
        Path("dvc.yaml").write_text(
            yaml.safe_dump({"stages": {"copy": {"cmd": "cp a b", "deps": ["a"], "outs": ["b"]}}})
        )
        Path("a").write_text("content")
        repo.reproduce()
    return tmp_path


def wrong(findings: list[doctor.Check]) -> list[str]:
    return [f"{finding.what} {finding.remedy}" for finding in findings if finding.remedy]


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff", '{"read": {}', '{"x": 1}'])
def test_a_lock_that_a_kill_left_is_put_right(
    content: str, caplog: pytest.LogCaptureFixture
) -> None:
    RWLOCK.write_bytes(content.encode("latin-1"))
    with pytest.raises(ReproductionError), Repo() as repo:
        repo.reproduce()
    result = CliRunner().invoke(app, ["doctor", "--locks"])
    assert result.exception is None
    assert "rwlock.damaged" in caplog.text
    with Repo() as repo:
        repo.reproduce()


def test_a_whole_lock_is_left_alone() -> None:
    RWLOCK.write_text(json.dumps({"read": {}, "write": {}}))
    assert doctor.check_rwlock().remedy is None
    assert RWLOCK.exists()


def test_a_damaged_lock_is_not_touched_while_dvc_works_here(project: Path) -> None:
    RWLOCK.write_text("")
    waiting = "import sys; sys.stdin.read()"
    (project / "dvc").symlink_to(sys.executable)
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    with subprocess.Popen(
        [project / "dvc", "-c", waiting], stdin=subprocess.PIPE, env=environment
    ) as working:
        finding = doctor.check_rwlock()
        assert str(working.pid) in (finding.remedy or "")
        assert RWLOCK.exists()
        assert working.stdin is not None
        working.stdin.close()
    assert doctor.check_rwlock().remedy is None
    assert not RWLOCK.exists()


def test_a_damaged_object_of_the_cache_is_found_by_its_hash() -> None:
    assert wrong(list(doctor.check_cache())) == []
    (file,) = (path for path in Path(".dvc/cache/files").rglob("*") if path.is_file())
    file.chmod(0o644)
    file.write_text("Content")
    (said,) = wrong(list(doctor.check_cache()))
    assert str(file) in said
    assert "b rm" in said
    file.unlink()
    here, *damaged = doctor.check_cache()
    assert "0 of the 1 outputs" in here.what
    assert not damaged


def test_remotes_that_answer_and_that_do_not(tmp_path: Path) -> None:
    def add(name: str, url: str, **options: object) -> None:
        with Repo() as repo, repo.config.edit("repo") as config:
            config["remote"][name] = {"url": url, **options}

    assert "no remote" in next(doctor.check_remotes()).what
    add("here", str(tmp_path / "storage"))
    assert wrong(list(doctor.check_remotes())) == []
    nowhere = {"endpointurl": "http://127.0.0.1:9", "access_key_id": "x", "secret_access_key": "y"}
    add("cloud", "s3://bucket/x", **nowhere, connect_timeout=1, read_timeout=1)
    (said,) = wrong(list(doctor.check_remotes()))
    assert "cloud (s3://bucket/x)" in said
    assert "config.local" in said


def test_low_and_read_only_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    def disk(free: int) -> Callable[[Path], object]:
        return lambda _: SimpleNamespace(free=free)

    monkeypatch.setattr("shutil.disk_usage", disk(10**12))
    assert doctor.check_disk().remedy is None
    monkeypatch.setattr("shutil.disk_usage", disk(10**9))
    assert "1.0 GB free" in doctor.check_disk().what
    assert "dvc gc" in (doctor.check_disk().remedy or "")
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "cannot be written" in doctor.check_disk().what


def test_packages_of_other_versions_are_named() -> None:
    Path("constraints.txt").write_text("numpy==0.1\nno-such-package==1.0\n")
    said = wrong(list(doctor.check_versions()))
    assert len(said) == 1
    assert "numpy" in said[0]
    assert "(pinned: 0.1)" in said[0]
    assert "no-such-package" not in said[0]


def arithmetic_check(arithmetic: str, monkeypatch: pytest.MonkeyPatch, others: list[str]) -> str:
    text = (ROOT / "params.yaml").read_text()
    for old in ("portable", "native"):
        text = text.replace(f"\narithmetic: {old}", f"\narithmetic: {arithmetic}")
    Path("params.yaml").write_text(text)
    monkeypatch.setattr(doctor.checksum, "differing", lambda: others)
    check = doctor.check_arithmetic()
    return f"{check.what} | {check.remedy}"


def test_this_machines_arithmetic_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "unsupported", lambda: None)
    same = "this machine computes just as the one that recorded the results"
    assert arithmetic_check("portable", monkeypatch, []) == f"arithmetic: {same} | None"
    assert "native" in arithmetic_check("native", monkeypatch, [])
    said = arithmetic_check("portable", monkeypatch, ["MKL", "oneDNN"])
    assert said.startswith("arithmetic: results of MKL, oneDNN differ here from the recorded ones")
    assert "constraints.txt" in said
    monkeypatch.setattr(doctor, "unsupported", lambda: "It needs AVX2.")
    assert "Set arithmetic: native" in arithmetic_check("portable", monkeypatch, [])
    assert arithmetic_check("native", monkeypatch, []) == "It needs AVX2 | None"


def test_results_are_compared_with_the_committed_ones(project: Path) -> None:
    assert doctor.compare_results().startswith("No git checkout here")
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    Path("evaluation").mkdir()
    metrics = Path("evaluation/metrics.json")
    metrics.write_text("{}")
    git = ["git", "-c", "user.name=a", "-c", "user.email=b"]
    for command in (["init", "-q"], ["add", "--all", "-f"], ["commit", "-qm", "recorded"]):
        subprocess.run([*git, *command], check=True)
    assert doctor.compare_results().startswith("These results are the recorded ones")
    metrics.write_text('{"CIDEr": 1}')
    Path("a").write_text("no result")
    said = doctor.compare_results()
    assert "not the recorded ones: 1 of" in said
    commit = said[said.index("git commit") :].replace(
        "git commit -m 'Own baseline'", "commit -qm x"
    )
    subprocess.run([*git, *commit.split()], check=True)
    assert doctor.compare_results().startswith("These results are the recorded ones")


def test_java_and_device_are_told() -> None:
    assert "openjdk" in doctor.check_java().what
    assert doctor.check_device().what.startswith("device: ")


def test_what_is_wrong_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "check_java", lambda: doctor.Check("Java: none", "install it"))
    monkeypatch.setattr(doctor, "check_arithmetic", lambda: doctor.Check("arithmetic: as it was"))
    result = CliRunner().invoke(app, ["doctor"])
    assert isinstance(result.exception, UserError)
    assert "1 of " in str(result.exception)
