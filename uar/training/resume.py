"""What a training stage needs to resume after a kill: one file, written after every epoch."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from uar.core.errors import UserError, plainly
from uar.core.files import set_aside
from uar.core.provenance import differences
from uar.core.weights import read_weights, write_weights
from uar.model.checkpoint import Checkpoint

log = logging.getLogger(__name__)

_KIND = "resume file"


@dataclass
class ResumeState:
    """The state of a stage between two epochs."""

    weights: dict[str, Tensor]  # of the model, by name
    optimizer: dict[str, Any]  # as `uar.core.distributed.full_state` gives it
    schedule: dict[str, Any]  # the learning rate scheduler's state
    past: list[dict[str, float]]  # values of each epoch so far
    best: Checkpoint | None
    seconds: float  # spent on the epochs so far
    average: dict[str, Tensor] | None = None  # of the weights, if there is one

    def save(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Write as safetensors; equal states give equal bytes except for `seconds`."""
        tensors = {f"weights/{name}": weight for name, weight in self.weights.items()}
        for name, values in self.optimizer["state"].items():
            tensors |= {f"optimizer/{name}/{key}": value for key, value in values.items()}
        tensors |= {f"average/{name}": weight for name, weight in (self.average or {}).items()}
        best = None
        if self.best is not None:
            tensors |= {f"best/{name}": weight for name, weight in self.best.weights.items()}
            best = {field: v for field, v in vars(self.best).items() if field != "weights"}
        about = {
            "identity": identity,
            "param_groups": self.optimizer["param_groups"],
            "schedule": self.schedule,
            "past": self.past,
            "best": best,
            "seconds": self.seconds,
        }
        write_weights(path, _KIND, tensors, about)


def read_resume(
    path: Path, identity: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> ResumeState | None:
    """The state of this run in the file `path`, or None.

    A damaged file is moved aside, and a file of another run is left to be overwritten; the log says
    so, and how the other run differs.

    Args:
        identity: what the run depends on.
        shapes: those of the model's weights, by name.
    """
    if not path.is_file():
        return None
    try:
        tensors, about = read_weights(path, _KIND)
        others = differences(about["identity"], _as_json(identity))
        if others:
            log.info(
                f"the unfinished run in {path} is from another state of the project and is not "
                f"used; it differs in: {', '.join(others)}"
            )
            return None
        return _parse(tensors, about, shapes)
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = (
            error if isinstance(error, UserError) else f"{path} cannot be used ({plainly(error)})."
        )
        log.warning(f"{reason}\nMoved to {set_aside(path)}; training starts over.")
        return None


def _parse(
    tensors: dict[str, Tensor], about: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> ResumeState:
    parts: dict[str, dict[str, Tensor]] = {
        "weights": {}, "optimizer": {}, "best": {}, "average": {}
    }  # fmt: skip
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    found = {name: tuple(weight.shape) for name, weight in parts["weights"].items()}
    if found != shapes:
        raise ValueError("weights of another model")
    if parts["average"] and {n: tuple(w.shape) for n, w in parts["average"].items()} != shapes:
        raise ValueError("an average of another model's weights")
    state: dict[str, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        weight, _, key = name.rpartition("/")
        if key != "step" and tuple(tensor.shape) != shapes[weight]:
            raise ValueError(f"the optimiser's state of {weight} has another shape")
        state.setdefault(weight, {})[key] = tensor
    named = {weight for group in about["param_groups"] for weight in group["params"]}
    if set(state) != named:
        raise ValueError("the optimiser's state is for other weights")
    best = None if about["best"] is None else Checkpoint(**about["best"], weights=parts["best"])
    return ResumeState(
        weights=parts["weights"],
        optimizer={"state": state, "param_groups": about["param_groups"]},
        schedule=about["schedule"],
        past=[dict(values) for values in about["past"]],
        best=best,
        seconds=float(about["seconds"]),
        average=parts["average"] or None,
    )


def _as_json(identity: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(identity))
