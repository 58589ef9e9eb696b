"""Push outputs and DVC's run cache, so that another clone runs nothing that was run here."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import paths
from uar.core.config import CREDENTIALED
from uar.core.errors import UserError
from uar.core.params_file import load_params

_WHO_MAY_SEE = {
    **dict.fromkeys(CREDENTIALED, "which its data use agreement lets only credentialed people see"),
    "custom": "a data set of your own, whose terms are not known here",
}

log = logging.getLogger(__name__)


def push(
    remote: Annotated[str | None, typer.Option(help="A remote other than the default one.")] = None,
    credentialed: Annotated[
        bool,
        typer.Option(
            "--credentialed",
            help="Confirm that all who read the remote may see the data set's reports and films.",
        ),
    ] = False,
) -> None:
    """Push the outputs of this and of every earlier run in the cache; `dvc push` leaves those out.

    In the other clone: `dvc pull --run-cache`, then `dvc repro --pull` or `dvc exp run --pull`.
    """
    from dvc.exceptions import DvcException

    name = load_params(paths.PARAMS).dataset.name
    if name in _WHO_MAY_SEE and not credentialed:
        raise UserError(
            f"the outputs hold reports and films of {name}, {_WHO_MAY_SEE[name]}. If everybody who "
            "reads the remote may see them, say so: python -m pipeline push --credentialed"
        )
    try:
        objects, runs = push_all(remote)
    except DvcException as error:
        raise UserError(
            f"not pushed: {error}. `python -m pipeline doctor` checks remotes."
        ) from None
    log.info(f"push: {objects} objects that the remote lacked, from {runs} runs in the cache")


def push_all(remote: str | None) -> tuple[int, int]:
    """Push what a checkout needs and what the run cache names.

    Of the run cache, DVC 3 itself pushes only the index, not the outputs that the index lists.

    Returns:
        How many objects were transferred, and how many runs the cache has.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with Repo() as repo:
        sent = repo.push(remote=remote)
        folder = Path(repo.cache.legacy.path) / "runs"
        runs = [(path.parent.name, path.name) for path in sorted(folder.glob("*/*/*"))]
        failed: set[Any] = set()
        with repo.lock:
            needed = repo.stage_cache.get_used_objs(runs)
            for objects in needed.values():
                done = repo.cloud.push(objects, remote=remote)
                sent += len(done.transferred)
                failed |= done.failed
            if not failed:  # an index without its outputs would be of no use
                repo.stage_cache.push(remote)
    if failed:
        raise DvcException(f"{len(failed)} objects not sent; the same command sends them again")
    return sent, len(runs)
