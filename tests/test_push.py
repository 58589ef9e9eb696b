"""Two clones that share a remote: what one has run, the other does not run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from moto.server import ThreadedMotoServer

from pipeline import paths
from pipeline.tools.push import push, push_all
from tests.conftest import ROOT
from uar.core.config import CREDENTIALED
from uar.core.errors import UserError

STAGES = {
    "prepare": {"deps": ["source"], "outs": ["data"], "metrics": ["count.json"]},
    "train": {"deps": ["data"], "params": ["lambda"], "outs": ["model"], "metrics": ["run.json"]},
    "evaluate": {"deps": ["model"], "outs": ["predictions"], "metrics": ["scores.json"]},
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "nobody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "nobody@example.org")


def spec(name: str) -> dict[str, object]:
    """A stage that notes that it ran, and makes of its inputs what it is to make."""
    stage = STAGES[name]
    inputs = " ".join(stage["deps"]) + (" params.yaml" if "params" in stage else "")
    out, metric = stage["outs"][0], stage["metrics"][0]
    command = f"echo {name} >> ../ran && cat {inputs} > {out} && echo 1 > {metric}"
    return {**stage, "cmd": command, "metrics": [{metric: {"cache": False}}]}


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def ran(folder: Path) -> list[str]:
    """Stages that have run since this was last asked."""
    log = folder / "ran"
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return names


def pull() -> None:
    """`dvc pull --run-cache`."""
    with Repo() as repo:
        repo.pull(run_cache=True)


def turn(value: int, **options: bool) -> None:
    Path("params.yaml").write_text(f"lambda: {value}\n")
    with Repo() as repo:
        repo.reproduce(**options)


class Remote:
    """A remote that is a folder."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.options: dict[str, str] = {}

    def objects(self) -> dict[str, bytes]:
        """Path in the remote and content."""
        root = Path(self.url)
        files = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}

    def remove(self, name: str) -> None:
        (Path(self.url) / name).unlink()

    def write(self, name: str, content: bytes) -> None:
        path = Path(self.url) / name
        path.unlink(missing_ok=True)  # it is read-only; and DVC removes one that it finds damaged
        path.write_bytes(content)


class Bucket(Remote):
    """A remote that is a bucket of a server on this machine."""

    def __init__(self, endpoint: str) -> None:
        self.url = "s3://bucket"
        self.options = {"endpointurl": endpoint}
        self.client: Any = boto3.client("s3", endpoint_url=endpoint)
        self.client.create_bucket(Bucket="bucket")

    def objects(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket="bucket").get("Contents", [])
        read = self.client.get_object
        return {e["Key"]: read(Bucket="bucket", Key=e["Key"])["Body"].read() for e in listed}

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket="bucket", Key=name)

    def write(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket="bucket", Key=name, Body=content)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of an S3 server; its clients in this process read the service's description once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", cache(botocore.session.create_loader))
        yield from serve()


def serve() -> Iterator[str]:
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture(params=["folder", "s3"])
def remote(
    request: pytest.FixtureRequest, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Remote]:
    """An empty remote."""
    if request.param == "folder":
        yield Remote(str(tmp_path / "remote"))
        return
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    bucket = Bucket(server)
    yield bucket
    for name in bucket.objects():
        bucket.remove(name)
    bucket.client.delete_bucket(Bucket="bucket")


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without commit or remote, in which lambda was 1 and then 2."""
    folder = tmp_path_factory.mktemp("made") / "twice"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_NO_ANALYTICS", "1")
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder.parent / "site"))
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.chdir(folder)
        run("git", "init", "-q")
        Repo.init().close()
        stages = {name: spec(name) for name in STAGES}
        Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        Path("source").write_text("films\n")
        for value in (1, 2):
            turn(value)
    assert ran(folder.parent) == ["prepare", "train", "evaluate", "train", "evaluate"]
    return folder


@pytest.fixture
def first(twice: Path, tmp_path: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone in which lambda was 1 and then 2, as its only commit knows."""
    folder = shutil.copytree(twice, tmp_path / "first")
    monkeypatch.chdir(folder)
    with Repo() as repo, repo.config.edit("repo") as config:
        config["core"]["remote"] = "shared"
        config["remote"]["shared"] = {"url": remote.url, "verify": True, **remote.options}
    run("git", "add", "-A")
    run("git", "commit", "-qm", "lambda 2")
    return folder


@pytest.fixture
def clone(first: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a second clone and goes there."""

    def make(name: str = "second") -> Path:
        run("git", "clone", "-q", str(first), str(first.parent / name))
        monkeypatch.chdir(first.parent / name)
        return first.parent / name

    return make


def test_a_b_a_runs_nothing_in_a_second_clone(first: Path, clone: Callable[[], Path]) -> None:
    sent, runs = push_all(None)
    assert (sent, runs) == (4, 5)  # data, two models that are also predictions, one metric
    clone()
    pull()
    for value in (1, 2, 1):
        turn(value, pull=True)
        assert Path("predictions").read_text() == f"films\nlambda: {value}\n"
    assert ran(first.parent) == []
    turn(3, pull=True)  # so that the above can fail
    assert ran(first.parent) == ["train", "evaluate"]


def test_dvc_push_alone_leaves_the_earlier_run_out(first: Path, clone: Callable[[], Path]) -> None:
    """Why there is a command for it; should DVC learn it, the command can go."""
    with Repo() as repo:
        repo.push(run_cache=True)
    clone()
    pull()
    turn(1, pull=True)
    assert ran(first.parent) == ["train"]


def test_a_push_that_was_cut_off_is_finished_by_another(
    first: Path, remote: Remote, clone: Callable[[], Path]
) -> None:
    push_all(None)
    names = sorted(remote.objects())
    cut = [name for name in names if name.startswith("files/")][::2]
    for name in [*cut, *(name for name in names if name.startswith("runs/"))]:
        remote.remove(name)
    sent, _ = push_all(None)
    assert sent == len(cut)
    assert sorted(remote.objects()) == names
    clone()
    pull()
    turn(1, pull=True)
    assert ran(first.parent) == []


def test_a_push_that_is_killed_is_finished_by_another(
    first: Path, remote: Remote, clone: Callable[[], Path]
) -> None:
    code = "from pipeline.tools.push import push_all; push_all(None)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pushing = subprocess.Popen([sys.executable, "-c", code], env=environment)
    while pushing.poll() is None and not remote.objects():
        time.sleep(0.01)
    pushing.kill()
    pushing.wait()
    push_all(None)
    clone()
    pull()
    for value in (1, 2):
        turn(value, pull=True)
    assert ran(first.parent) == []


def test_two_clones_push_at_once(first: Path, clone: Callable[[str], Path]) -> None:
    push_all(None)
    folders = [clone(f"clone {value}") for value in (3, 4)]
    for value, folder in zip((3, 4), folders, strict=True):
        os.chdir(folder)
        pull()
        turn(value, pull=True)
    ran(first.parent)
    code = "from pipeline.tools.push import push_all; push_all(None)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pushing = [
        subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=environment)
        for folder in folders
    ]
    assert [process.wait() for process in pushing] == [0, 0]
    clone("last")
    pull()
    for value in (1, 2, 3, 4):
        turn(value, pull=True)
    assert ran(first.parent) == []


def test_a_damaged_object_does_not_come_through(
    first: Path, remote: Remote, clone: Callable[[str], Path]
) -> None:
    push_all(None)
    (name,) = (n for n, content in remote.objects().items() if content == b"films\nlambda: 2\n")
    damages = {"flipped": b"films\nlambda: 3\n", "cut": b"films", "empty": b""}
    for damage, new in damages.items():
        remote.write(name, new)
        clone(damage)
        with pytest.raises(DvcException), Repo() as repo:
            repo.pull()
        assert not Path("model").exists(), damage
        assert Path("data").read_text() == "films\n", damage  # what is whole came


def test_no_remote_is_a_sentence(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Repo() as repo, repo.config.edit("repo") as config:
        del config["core"]["remote"], config["remote"]["shared"]
    shutil.copy(ROOT / "params.yaml", paths.PARAMS)
    with pytest.raises(UserError, match="not pushed"):
        push()


def test_credentialed_data_are_pushed_only_by_who_says_so(first: Path, remote: Remote) -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["dataset"] |= {"name": CREDENTIALED[0], "layout": "r2gen", "root": "x"}
    raw["export"]["index"] = "ids"
    paths.PARAMS.write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match="credentialed"):
        push()
    assert not remote.objects()
    push(credentialed=True)
    assert any(name.startswith("files/") for name in remote.objects())
