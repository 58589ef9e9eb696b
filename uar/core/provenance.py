"""What each file was made from and with which parameters, checked before the file is used.

A stage writes a record with its outputs: `{stage, params, made_from, made, code}`, with SHA-256
hashes. Records form a chain: the inputs of one are outputs of another. A stage checks its inputs
against the records of all stages upstream before any work, so that it never mixes files from
different runs, damaged files, or files made with other parameters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from uar.core.errors import UserError
from uar.core.files import read_json, sha256, write_json

_SHOWN = 12  # digits of a hash


@dataclass(frozen=True)
class Record:
    """What one run of a stage read and made.

    Args:
        stage: its name.
        params: the parameters it depends on, by dotted key.
        made_from: path -> SHA-256 of what it read.
        made: path -> SHA-256 of what it wrote.
        code: SHA-256 of the stage's own code; None in older records.
    """

    stage: str
    params: dict[str, Any]
    made_from: dict[str, str]
    made: dict[str, str]
    code: str | None = None

    def save(self, path: Path) -> None:
        """Write as JSON, with a hash of the record itself."""
        write_json(path, self._content() | {"sha256": self._hash()})

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read a record. Raises UserError if the file is absent, changed or not a record."""
        raw = read_json(path)
        names = {field.name for field in fields(cls)}
        if isinstance(raw, dict) and set(raw) | {"code"} == names | {"sha256"}:
            record = cls(**{name: raw[name] for name in names & set(raw)})
            if record._hash() == raw["sha256"] and all(
                isinstance(part, dict) for part in (record.params, record.made_from, record.made)
            ):
                return record
        raise UserError(
            f"{path} is not the record of a stage, or was changed. Fetch it with `dvc pull`, "
            f"or make it with `dvc repro --force {path.stem}`."
        )

    def _content(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def _hash(self) -> str:
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Scratch:
    """Where a stage's unfinished work is kept, to be resumed after a kill.

    Args:
        folder: one that every process can write to.
        identity: everything that the work depends on, as JSON values; work with another identity
            is not resumed.
    """

    folder: Path
    identity: Mapping[str, Any]


def release(package: str) -> str:
    """An installed package's version without its build: 2.13.0 for 2.13.0+cpu and 2.13.0+cu130.

    Hashes use it so that builds from two package indexes give the same hash.
    """
    return version(package).partition("+")[0]


def check_origins(
    inputs: Sequence[Path],
    params: Mapping[str, Any],
    *,
    makers: Mapping[str, str],
    records: Path,
    folder: Path = Path(),
) -> dict[str, str]:
    """Compare the files that a stage is about to read with the records of their origin.

    Args:
        inputs: the files.
        params: by dotted key. Those that an earlier stage depends on must have the same values.
        makers: path -> the stage that makes it.
        records: folder of the records, `STAGE.json`.
        folder: the one that all these paths are relative to.

    Returns:
        SHA-256 of each input.

    Raises:
        UserError: a file or record is missing; a file is not the one that its stage made; two files
            were not made from the same third one; a parameter differs. Every fault of the last
            three kinds is named with both values.
    """
    hashes = {str(path): sha256(folder / path) for path in inputs}
    known: dict[str, Record] = {}
    open_stages = sorted({makers[path] for path in hashes})
    required = set(open_stages)
    while open_stages:
        stage = open_stages.pop()
        path = folder / records / f"{stage}.json"
        if stage in known or (stage not in required and not path.is_file()):
            continue
        known[stage] = Record.load(path)
        open_stages += [makers[source] for source in known[stage].made_from if source in makers]

    faults = [
        f"{path} has SHA-256 {digest[:_SHOWN]}, but {makers[path]} made "
        f"{known[makers[path]].made.get(path, 'no such file')[:_SHOWN]}"
        for path, digest in hashes.items()
        if known[makers[path]].made.get(path) != digest
    ]
    for _, record in sorted(known.items()):
        for source, digest in record.made_from.items():
            maker = known.get(makers.get(source, ""))
            at_hand = hashes.get(source) or (maker.made.get(source) if maker else None)
            if at_hand is not None and at_hand != digest:
                faults.append(
                    f"{_main(record)}: made by {record.stage} from {source} {digest[:_SHOWN]}, "
                    f"but {source} is now {at_hand[:_SHOWN]}"
                )
        for key, value in record.params.items():
            if key in params and params[key] != value:
                faults.append(
                    f"{_main(record)}: made by {record.stage} with {key} {value!r}, "
                    f"but params.yaml says {params[key]!r}"
                )
    if faults:
        lines = "\n".join(f"  {fault}" for fault in faults)
        raise UserError(
            f"these files do not belong together:\n{lines}\n"
            "`dvc repro` remakes what is out of date; `dvc checkout` restores the files of the "
            "last run, `dvc pull` fetches those that are missing here."
        )
    return hashes


def _main(record: Record) -> str:
    """A stage's main output."""
    return next(iter(record.made), "nothing")


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Names of the entries in which two nested mappings differ, keys separated by spaces."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [] if old == new else [name]
    keys = [*new, *(key for key in old if key not in new)]
    return [
        difference
        for key in keys
        for difference in differences(
            old.get(key), new.get(key), f"{name} {key}" if name else str(key)
        )
    ]
