"""A trained model as one file that carries its own configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from torch import Tensor

from uar.core.config import ModelParams
from uar.core.errors import UserError
from uar.core.weights import read_weights, write_weights
from uar.model.uar import UAR, ModelSizes


@dataclass(frozen=True)
class Checkpoint:
    """Weights and everything needed to use them."""

    model: dict[str, Any]  # ModelParams
    sizes: dict[str, int]  # ModelSizes
    encoder_sha256: str | None  # of the encoder of its tokens; None without LSU
    epoch: int  # 0: the model that the stage began with
    validation: dict[str, float]  # empty if untrained
    weights: dict[str, Tensor]
    vocabulary_sha256: str | None = None  # of its words; None: an early file, without it

    @classmethod
    def of(
        cls,
        model: UAR,
        weights: dict[str, Tensor],
        *,
        encoder_sha256: str | None,
        epoch: int,
        validation: dict[str, float],
        vocabulary_sha256: str | None = None,
    ) -> Checkpoint:
        """A checkpoint of `model` with a copy of `weights`, its current or averaged state."""
        return cls(
            model=model.params.model_dump(mode="json"),
            sizes=asdict(model.sizes),
            encoder_sha256=encoder_sha256,
            epoch=epoch,
            validation=validation,
            weights={name: w.detach().cpu().clone() for name, w in weights.items()},
            vocabulary_sha256=vocabulary_sha256,
        )

    def save(self, path: Path) -> None:
        """Write as safetensors (`uar.core.weights`): equal checkpoints give equal bytes."""
        about = {field: value for field, value in vars(self).items() if field != "weights"}
        write_weights(path, "checkpoint", self.weights, about)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            UserError: the file is absent, damaged or not a checkpoint of this project.
        """
        weights, about = read_weights(path, "checkpoint")
        try:
            _About.model_validate(about, strict=True)
            return cls(**about, weights=weights)
        except (TypeError, ValidationError) as error:
            raise UserError(f"{path} is not a checkpoint of this project: {error}") from None

    def build(self, **changes: Any) -> UAR:
        """The model with these weights.

        Args:
            changes: model parameters to change: stage two adds the refiner to stage one's model.

        Raises:
            UserError: the weights do not fit the configuration, or it is not valid in this version
                of the project.
        """
        params = self._params(changes)
        self._outline(params)  # before any memory is taken
        try:
            model = UAR(params, ModelSizes(**self.sizes))
            model.load_state_dict(self.weights, strict=False)
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"the checkpoint's weights do not fit its model: {error}") from None
        return model

    def outline(self) -> UAR:
        """The model without its weights, on `meta`: only shapes, which take no memory.

        Raises:
            UserError: as for `build`.
        """
        return self._outline(self._params({}))

    def _params(self, changes: dict[str, Any]) -> ModelParams:
        if not isinstance(self.model, dict):
            raise UserError(f"the checkpoint's model is {self.model!r}, expected its parameters.")
        try:
            return ModelParams.model_validate({**self.model, **changes})
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise UserError(
                "the checkpoint's model is not valid in this version of the project "
                f"({'; '.join(faults)}). Train it again, or read it with the version that wrote it."
            ) from None

    def _outline(self, params: ModelParams) -> UAR:
        """The model on `meta`, after checking that the weights have the shapes the file implies."""
        try:
            with torch.device("meta"):
                model = UAR(params, ModelSizes(**self.sizes))
            wanted = model.state_dict()
        except (ArithmeticError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"the checkpoint's model cannot be built: {error}") from None
        adds_refiner = params.tir != "none" and self.model.get("tir") == "none"
        missing = [
            name
            for name in wanted.keys() - self.weights.keys()
            if not (adds_refiner and ".refiner." in name)
        ]
        other = [
            f"{name} {tuple(self.weights[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in wanted.keys() & self.weights.keys()
            if wanted[name].shape != self.weights[name].shape
        ]
        unexpected = self.weights.keys() - wanted.keys()
        if missing or unexpected or other:
            raise UserError(
                "the checkpoint's weights do not fit its model: missing "
                f"{sorted(missing)[:5]}, unexpected {sorted(unexpected)[:5]}, of another shape "
                f"{sorted(other)[:5]}"
            )
        return model


class _About(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: dict[str, Any]
    sizes: dict[str, NonNegativeInt]
    encoder_sha256: str | None
    epoch: NonNegativeInt
    validation: dict[str, float]
    vocabulary_sha256: str | None = None
