"""What happens when runs are killed, files damaged, mixed or hostile, and disks full.

    python -m tests.faults                        # some of each kind, about two minutes
    python -m tests.faults --long --log FILE      # every case; if interrupted, resumes from FILE
    python -m tests.faults --measure              # what hostile bundles, films and uploads cost

A demo of twenty studies runs once, in full. Then each case works on a copy of it, in a forked
process of its own. The printed tables are in docs/faults.md; the exit status is 1 if any case did
not end as it should.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.provenance import stages
from tests.faults.commands import commands, writers
from tests.faults.costs import bundles, films, measure
from tests.faults.damage import refused
from tests.faults.forked import Case
from tests.faults.hostile import hostile
from tests.faults.kills import kills, moments
from tests.faults.log import Log
from tests.faults.orphans import orphans
from tests.faults.project import preload, whole_project
from tests.faults.system import full, system


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="every case")
    parser.add_argument("--only", nargs="*", help="kinds, as the table has them")
    parser.add_argument("--stages", nargs="*", help="those that are killed and get a full disk")
    parser.add_argument("--log", type=Path, help="where endings are kept; those there are not run")
    parser.add_argument(
        "--measure", action="store_true", help="costs of hostile files, nothing else"
    )
    arguments = parser.parse_args()
    if arguments.measure:
        measure()
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    preload()
    log = Log(arguments.log)
    names = arguments.stages or list(stages())
    long = arguments.long
    short = arguments.stages or ["preprocess", "vocabulary", "tokenize", "train_stage_one"]
    with whole_project(log.project) as whole:
        kinds: dict[str, Iterator[Case]] = {
            "kills": kills(whole, names if long else short, 20 if long else 2),
            "refused": refused(whole, None if long else 20),
            "hostile": hostile(whole),
            "bundles": bundles(1 if long else 12),
            "films": films(1 if long else 4),
            "system": system(whole, names if long else ["tokenize"]),
            "commands": commands(whole),
            "writers": writers(40 if long else 3),
            "orphans": orphans(whole, (0.0, 1.0, 3.0, 6.0) if long else (1.0,)),
            "full": full(whole, names if long else short[:3], [0, 2_000, 50_000] if long else [0]),
        }
        if long:
            kinds["moments"] = moments(whole, names)
        for kind, cases in kinds.items():
            if arguments.only and kind not in arguments.only:
                continue
            for case, run in cases:
                if (kind, case) not in log.endings:
                    begun = time.monotonic()
                    log.add(kind, case, run(), time.monotonic() - begun)
    print(log.table())
    sys.exit(bool(log.failed()))


if __name__ == "__main__":
    main()
