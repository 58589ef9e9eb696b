"""DVC experiments, read, queued and run with DVC's commands."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from pipeline import paths
from uar.core.errors import UserError

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem

CODE = ("pipeline/", "uar/")
State = Literal["success", "running", "queued", "failed"]
DATA_ONLY = "data-"  # prefix of experiments that run only what others share, and no model
_BEST_FIRST = ("success", "running", "queued", "failed")
_RETRIES = 4
_BASELINE = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/")


@dataclass(frozen=True)
class Experiment:
    """One experiment of `dvc exp show`.

    Attributes:
        name: its name, or its own commit where it has none.
        state: the better one, for a name that was queued again after a failure.
        rev: its own commit.
        commit: the commit it was made from.
        finished: time stamp, ISO 8601.
        params: params.yaml, nested.
        metrics: path of a metrics file -> its content; files that it lacks are absent.
    """

    name: str
    state: State
    rev: str
    commit: str
    finished: str
    params: dict[str, Any]
    metrics: dict[str, Any]


def read_experiments() -> dict[str, Experiment]:
    """Every experiment of this clone by name, whichever commit it was made from."""
    refs = _checked(["git", "for-each-ref", "--format=%(refname)", "refs/exps"])
    baselines = {"".join(found) for found in _BASELINE.findall(refs)}
    revisions = [word for commit in sorted(baselines) for word in ("--rev", commit)]
    command = ["exp", "show", "--json", "--rev", "HEAD", *revisions]
    for _ in range(_RETRIES):  # DVC fails where a worker removes a file that it is about to read
        with suppress(UserError):
            return parse_experiments(json.loads(_dvc(*command)))
        time.sleep(1)
    return parse_experiments(json.loads(_dvc(*command)))


def parse_experiments(shown: list[dict[str, Any]]) -> dict[str, Experiment]:
    """Turn what `dvc exp show --json` prints into experiments by name."""
    experiments: dict[str, Experiment] = {}
    for experiment in _experiments(shown):
        other = experiments.get(experiment.name)
        if other is None or _rank(experiment) > _rank(other):
            experiments[experiment.name] = experiment
    return experiments


def _experiments(shown: list[dict[str, Any]]) -> Iterator[Experiment]:
    for baseline in shown:
        for entry in baseline["experiments"] or []:
            last, executor = entry["revs"][0], entry["executor"]
            data = last["data"] or {}
            yield Experiment(
                name=entry["name"] or last["rev"],
                state=executor["state"] if executor else "success",
                rev=last["rev"],
                commit=baseline["rev"],
                finished=data.get("timestamp") or "",
                params=_contents(data.get("params", {})).get(str(paths.PARAMS), {}),
                metrics=_contents(data.get("metrics", {})),
            )


def _rank(experiment: Experiment) -> tuple[int, str]:
    return -_BEST_FIRST.index(experiment.state), experiment.finished


def _contents(files: dict[str, Any]) -> dict[str, Any]:
    return {path: file["data"] for path, file in files.items() if "data" in file}


def run_apart(name: str, targets: Iterable[str], overrides: dict[str, Any]) -> None:
    """Run stages outside the workspace, here and now; their outputs go to DVC's cache."""
    command = ["exp", "run", "--temp", "--name", name, *_set(overrides), *targets]
    if subprocess.run(["dvc", *command], env=_environment(), check=False).returncode:
        raise UserError(f"`dvc {' '.join(command)}` failed; its own message is above.")


def queue(name: str, overrides: dict[str, Any]) -> None:
    """Queue an experiment."""
    _dvc("exp", "run", "--queue", "--name", name, *_set(overrides))


def start_workers(jobs: int) -> None:
    """Have up to this many DVC processes work through the queue in the background."""
    command = ["dvc", "queue", "start", "--jobs", str(jobs)]
    started = subprocess.run(
        command,
        env=_environment(),
        stdout=subprocess.DEVNULL,  # not a pipe: workers keep it open, and reading it would wait
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C shall not reach them
        check=False,
    )
    if started.returncode:
        raise UserError(f"`{' '.join(command)}` failed; run it yourself to see why.")


def read_file(rev: str, path: Path) -> bytes | None:
    """A file as an experiment left it, from git or from DVC's cache; None if it has none."""
    from dvc.scm import RevError  # takes half a second to import

    try:
        return _files_of(rev).read_bytes(path.as_posix())
    except (FileNotFoundError, RevError):
        return None


@functools.lru_cache(maxsize=1)
def _files_of(rev: str) -> DVCFileSystem:
    from dvc.api import DVCFileSystem

    return DVCFileSystem(rev=rev)


def code_of(rev: str) -> str:
    """Hash of the code in a commit that its stages name as dependencies."""
    named = _stages_code(_checked(["git", "show", f"{rev}:{paths.DVC}"]))
    return _code_hash(_checked(["git", "ls-tree", "-r", rev, "--", *named]).splitlines())


def code_in(folder: Path) -> str:
    """The same hash for a folder's files: equal to `code_of` a commit that has the same code."""
    listed = {}
    for named in _stages_code((folder / paths.DVC).read_text(encoding="utf-8")):
        path = folder / named
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                content = file.read_bytes()
                blob = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
                mode = "100755" if file.stat().st_mode & stat.S_IXUSR else "100644"
                name = file.relative_to(folder).as_posix()
                listed[name] = f"{mode} blob {blob}\t{name}"  # as `git ls-tree` prints it
    return _code_hash(line for _, line in sorted(listed.items()))


def commit_of(code: str) -> str | None:
    """The last commit on this clone's branches whose code has this hash; None if none has it."""
    command = ["git", "rev-list", "HEAD", "--branches", "--", *CODE, str(paths.DVC)]
    return next((rev for rev in _checked(command).split() if code_of(rev) == code), None)


def head() -> str:
    """The commit that is checked out."""
    return _checked(["git", "rev-parse", "HEAD"]).strip()


def _stages_code(dvc_yaml: str) -> list[str]:
    stages = yaml.safe_load(dvc_yaml)["stages"].values()
    return sorted({d for stage in stages for d in stage["deps"] if d.startswith(CODE)})


def _code_hash(listed: Iterable[str]) -> str:
    code = "\n".join(line for line in listed if line.endswith((".py", ".csv")))
    return hashlib.sha256(code.encode()).hexdigest()[:10]


def is_clean(commit: str, rev: str) -> bool:
    """Whether an experiment's code is that of the commit that it was made from."""
    command = ["git", "diff", "--quiet", commit, rev, "--", *CODE]
    return subprocess.run(command, env=_environment(), check=False).returncode == 0


def _set(overrides: dict[str, Any]) -> list[str]:
    return [word for k, v in overrides.items() for word in ("-S", f"{k}={json.dumps(v)}")]


def _dvc(*arguments: str) -> str:
    return _checked(["dvc", *arguments])


def _checked(command: list[str]) -> str:
    result = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise UserError(f"`{' '.join(command)}` failed:\n{result.stderr.strip()}")
    return result.stdout


def _environment() -> dict[str, str]:
    """os.environ with this Python's folder first in PATH: workers start `dvc` and `python` by name.

    This holds whether or not its virtual environment is activated.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path}
