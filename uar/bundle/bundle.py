"""A bundle: weights, vocabulary, tokenizer, preprocessing, decoding and provenance in one file.

A zip archive, uncompressed: manifest.json names every other part with its SHA-256. Parts are JSON,
text and safetensors, so that nothing in a bundle is ever executed. The tokenizer, the other members
of an ensemble, the index of training studies, the likeness of films, the judge of findings and the
example are not in every bundle.

A bundle may come from anyone, so opening one must not cost more than its own bytes: nothing in it
is compressed, text is short, and a stated size is believed only if the weights have it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from uar.bundle.evidence import Evidence
from uar.bundle.example import Example
from uar.bundle.index import StudyIndex
from uar.bundle.likeness import Likeness
from uar.bundle.manifest import MANIFEST
from uar.core.config import MOST_MEMBERS, DecodeParams
from uar.core.errors import UserError, plainly
from uar.core.files import atomic_write, sha256
from uar.data.text import Vocabulary
from uar.evaluation.clinical.labels import FINDINGS
from uar.inference.judge import Judge
from uar.inference.writing import in_effect, needs_findings
from uar.model.checkpoint import Checkpoint
from uar.model.ensemble import refuse_other_member
from uar.tokens.loading import load_tokenizer
from uar.tokens.tokenizer import Tokenizer

FORMAT = 5
_MODEL, _WORDS, _CARD = "model.safetensors", "vocabulary.json", "card.md"
_ENCODER = "encoder.safetensors"
_INDEX, _LIKENESS, _EXAMPLE = "index.safetensors", "likeness.safetensors", "example.safetensors"
_JUDGE = "judge.safetensors"
_PARTS = {_MODEL, _WORDS, _CARD, _ENCODER, _INDEX, _LIKENESS, _JUDGE, _EXAMPLE}
_MOST_TEXT = 8_000_000  # bytes of a part that is JSON or text
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # fixed, so that the same parts make the same file
_SHOWN = 12  # digits of a hash in messages
_MEMBER = "member_{}.safetensors"  # numbered from 1
_OF_BEAMS = {  # what a bundle that writes by beam search leaves out, since it has no effect then
    "choose": "beam", "samples": 30, "temperature": 0.7, "findings_weight": 10.0,
    "findings_threshold": 0.15,
}  # fmt: skip


class Preprocessing(BaseModel):
    """How films become the model's input, and reports its words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(ge=16, le=4096)  # pixels, side of a packed image
    crop: int = Field(ge=8, le=4096)  # pixels, side of the model's input
    views: int = Field(ge=1, le=2)  # V, films of a study, frontal first
    missing_view: Literal["error", "repeat", "mask"]
    cleaner: str
    precision: Literal["auto", "float32", "bfloat16"]  # of the tokenizer


class _Provenance(BaseModel):
    model_config = ConfigDict(extra="allow")

    dataset: str


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: int
    parts: dict[str, str]
    preprocessing: Preprocessing
    decode: DecodeParams
    evidence: Evidence | None
    provenance: _Provenance
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("decode", mode="before")
    @classmethod
    def _completed(cls, stated: Any) -> Any:
        if not isinstance(stated, dict) or "ensemble" in stated:  # members are parts, not paths
            return stated
        by_beams = _OF_BEAMS if "choose" not in stated else {}
        return {"ensemble": (), **by_beams, **stated}


@dataclass(frozen=True)
class Bundle:
    """All that it takes to write a report.

    Attributes:
        checkpoint: the model.
        tokenizer: makes the tokens that the model reads; None for a model that reads pixels.
        vocabulary: V_R.
        preprocessing: of films and reports.
        decode: how reports are written.
        provenance: where the bundle is from: data set, commit, hashes, scores with their protocol.
        card: model card, Markdown.
        index: training studies, to name those most like a new one; None if the bundle has none.
        likeness: detects films unlike those of training; None if training films were too few.
        evidence: what validation says about the model's findings.
        example: a study to show, where the data set's terms allow it.
        judge: tells from tokens how likely findings are, to choose among samples and to say how
            certain sentences are; None for a model that reads pixels.
        members: other models, with which this one writes as an ensemble.
        seed: of the samples drawn.
    """

    checkpoint: Checkpoint
    tokenizer: Tokenizer | None
    vocabulary: Vocabulary
    preprocessing: Preprocessing
    decode: DecodeParams
    provenance: dict[str, Any]
    card: str
    index: StudyIndex | None = None
    likeness: Likeness | None = None
    evidence: Evidence | None = None
    example: Example | None = None
    judge: Judge | None = None
    members: Sequence[Checkpoint] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse parts of two runs, naming both."""
        reads = self.checkpoint.encoder_sha256
        makes = None if self.tokenizer is None else self.tokenizer.fingerprint()
        if reads != makes:
            raise UserError(
                "the bundle mixes parts of two runs: the model reads tokens of encoder "
                f"{_short(reads)}, but the tokenizer is encoder {_short(makes)}"
            )
        model = self.checkpoint.outline()
        wanted = model.sizes.vocabulary
        if wanted != len(self.vocabulary):
            raise UserError(
                f"the bundle mixes parts of two runs: the model knows {wanted} words, but the "
                f"vocabulary has {len(self.vocabulary)}"
            )
        if model.params.lsu != (self.tokenizer is not None):
            raise UserError(
                f"the model reads {'tokens' if model.params.lsu else 'pixels'}, but the bundle has "
                f"{'no' if self.tokenizer is None else 'a'} tokenizer"
            )
        network = model.extractor.network if self.tokenizer is None else self.tokenizer
        if self.tokenizer is not None and self.preprocessing.crop % network.stride:
            raise UserError(
                f"a crop of {self.preprocessing.crop} pixels is not a multiple of a token's side, "
                f"{network.stride} pixels"
            )
        side = -(-self.preprocessing.crop // network.stride)
        length = self.preprocessing.views * side**2
        if length != model.sizes.visual_length:
            raise UserError(
                "the bundle mixes parts of two runs: the model reads "
                f"{model.sizes.visual_length} tokens or cells per study, but this preprocessing "
                f"makes {length}"
            )
        if self.decode.guidance and model.no_image is None:
            raise UserError(
                f"decode.guidance is {self.decode.guidance:g}, which needs a model trained with "
                "model.image_dropout; this one was trained without"
            )
        self._refuse_other_words(self.checkpoint, "the model")
        for number, member in enumerate(self.members, 1):
            self._refuse_other_words(member, name := f"member {number}")
            refuse_other_member(model, member.outline(), name)
            if member.encoder_sha256 != reads:
                raise UserError(
                    f"the bundle mixes parts of two runs: {name} reads tokens of encoder "
                    f"{_short(member.encoder_sha256)}, the model those of {_short(reads)}"
                )
        self._refuse_other_likeness(length // self.preprocessing.views)
        self._refuse_other_judge(makes)
        width = model.params.d_model
        if self.index is not None and self.index.features.shape[1] != width:
            raise UserError(
                f"the bundle mixes parts of two runs: the model's features have {width} numbers, "
                f"but the index's have {self.index.features.shape[1]}"
            )

    def _refuse_other_words(self, checkpoint: Checkpoint, name: str) -> None:
        found, wanted = checkpoint.vocabulary_sha256, self.vocabulary.fingerprint()
        if found not in (None, wanted):
            raise UserError(
                f"the bundle mixes parts of two runs: {name} was trained with vocabulary "
                f"{_short(found)}, but the bundle's is {_short(wanted)}"
            )

    def _refuse_other_likeness(self, length: int) -> None:
        if self.likeness is None:
            return
        costs, wanted = self.likeness.token_costs, None
        if self.tokenizer is not None:
            wanted = (self.preprocessing.views, length, self.tokenizer.codebook_size)
        found = None if costs is None else tuple(costs.shape)
        if found != wanted or len(self.likeness.mean) != self.preprocessing.views:
            raise UserError(
                "the bundle mixes parts of two runs: the likeness is for "
                f"{len(self.likeness.mean)} views and tokens {found}, the model for "
                f"{self.preprocessing.views} and {wanted}"
            )

    def _refuse_other_judge(self, encoder_sha256: str | None) -> None:
        if self.judge is None:
            if needs_findings(self.decode):
                raise UserError(
                    f"decode.findings_weight is {self.decode.findings_weight:g}, which needs a "
                    "judge of findings, but the bundle has none"
                )
            return
        if self.tokenizer is None or self.judge.encoder_sha256 != encoder_sha256:
            raise UserError(
                "the bundle mixes parts of two runs: the judge reads tokens of encoder "
                f"{_short(self.judge.encoder_sha256)}, but the tokenizer is encoder "
                f"{_short(encoder_sha256)}"
            )
        found = self.judge.codebook, self.judge.views, self.judge.findings
        wanted = self.tokenizer.codebook_size, self.preprocessing.views, FINDINGS
        if found != wanted:
            raise UserError(
                "the bundle mixes parts of two runs: the judge is for codes, views and findings "
                f"{found}, the model for {wanted}"
            )

    def save(self, path: Path) -> None:
        """Write the file; the same content gives the same bytes."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.checkpoint.save(folder / _MODEL)
            for number, member in enumerate(self.members, 1):
                member.save(folder / _MEMBER.format(number))
            self.vocabulary.save(folder / _WORDS)
            (folder / _CARD).write_text(self.card, encoding="utf-8")
            if self.tokenizer is not None:
                self.tokenizer.save(folder / _ENCODER)
            if self.index is not None:
                self.index.save(folder / _INDEX, sha256(folder / _MODEL))
            if self.likeness is not None:
                self.likeness.save(folder / _LIKENESS)
            if self.judge is not None:
                self.judge.save(folder / _JUDGE)
            if self.example is not None:
                self.example.save(folder / _EXAMPLE)
            parts = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
        manifest = {
            "format": FORMAT,
            "parts": {part: hashlib.sha256(data).hexdigest() for part, data in parts.items()},
            "preprocessing": self.preprocessing.model_dump(),
            "decode": {k: v for k, v in in_effect(self.decode).items() if k != "ensemble"},
            "evidence": None if self.evidence is None else self.evidence.model_dump(),
            "provenance": self.provenance,
        }
        if self.decode.choose == "samples":
            manifest["seed"] = self.seed
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for part, data in {MANIFEST: text.encode(), **parts}.items():
                archive.writestr(zipfile.ZipInfo(part, _LONG_AGO), data)

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Read a bundle.

        Raises:
            UserError: the file is absent, not a bundle, damaged, of another format version, or
                made of parts of two runs.
        """
        if not path.is_file():
            raise UserError(
                f"{path} is missing. `python -m pipeline export` makes it from a trained model; "
                "`dvc pull export` fetches it."
            )
        try:
            with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as name:
                _refuse_odd_archive(archive, path.stat().st_size)
                manifest = json.loads(archive.read(MANIFEST))
                _refuse_other_format(manifest)
                checked = _Manifest.model_validate(manifest, strict=True)
                folder = Path(name)  # the reader of each part takes a file
                _unpack(archive, checked.parts, folder)
                return cls._from_parts(folder, checked)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise UserError(f"{path}: its manifest is faulty: {'; '.join(faults)}") from None
        except _NO_BUNDLE as error:
            raise UserError(
                f"{path} is not a bundle of this project, or is damaged "
                f"({plainly(error)}). Fetch or export it again."
            ) from None

    @classmethod
    def _from_parts(cls, folder: Path, manifest: _Manifest) -> Bundle:
        tokenizer, index = None, None
        if _ENCODER in manifest.parts:
            tokenizer = load_tokenizer(folder / _ENCODER)
        if _INDEX in manifest.parts:
            index = StudyIndex.load(folder / _INDEX, manifest.parts[_MODEL])
        likeness, example, judge = folder / _LIKENESS, folder / _EXAMPLE, folder / _JUDGE
        return cls(
            checkpoint=Checkpoint.load(folder / _MODEL),
            tokenizer=tokenizer,
            vocabulary=Vocabulary.load(folder / _WORDS),
            preprocessing=manifest.preprocessing,
            decode=manifest.decode,
            provenance=manifest.provenance.model_dump(),
            card=(folder / _CARD).read_text(encoding="utf-8"),
            index=index,
            likeness=Likeness.load(likeness) if likeness.is_file() else None,
            evidence=manifest.evidence,
            example=Example.load(example) if example.is_file() else None,
            judge=Judge.load(judge) if judge.is_file() else None,
            members=[Checkpoint.load(folder / name) for name in _members(manifest.parts)],
            seed=manifest.seed,
        )


_NO_BUNDLE = (  # what a damaged archive or manifest raises
    zipfile.BadZipFile,
    EOFError,
    KeyError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _refuse_other_format(manifest: Any) -> None:
    version = manifest["format"]
    if version != FORMAT:
        raise UserError(
            f"a bundle of format version {version!r}; this program reads version {FORMAT}. "
            "Export it again with this program, or use the program that made it."
        )


def _refuse_odd_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Raise UserError if parts are compressed, too long for text, overlapping or there twice."""
    infos = archive.infolist()
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise UserError(f"{info.filename[:50]!r} is compressed; parts of a bundle never are")
        if not info.filename.endswith(".safetensors") and info.file_size > _MOST_TEXT:
            raise UserError(f"{info.filename[:50]!r} is too long: {info.file_size:,} bytes of text")
    if sum(info.file_size for info in infos) > size:
        raise UserError("its parts overlap")
    if len({info.filename for info in infos}) < len(infos):
        raise UserError("it contains a part twice")


def _unpack(archive: zipfile.ZipFile, hashes: dict[str, str], folder: Path) -> None:
    """Write all parts into a folder; they must be exactly those that the manifest names."""
    present = set(archive.namelist()) - {MANIFEST}
    if present != set(hashes) or not present <= {*_PARTS, *_members(hashes)}:
        raise UserError(
            f"its parts are {sorted(present)}, but its manifest names {sorted(hashes)}. "
            "Export it again."
        )
    for name, wanted in hashes.items():
        with archive.open(name) as part, (folder / name).open("wb") as file:
            shutil.copyfileobj(part, file, 2**20)
        if (found := sha256(folder / name)) != wanted:
            raise UserError(
                f"{name} has SHA-256 {_short(found)}, but the manifest states {_short(wanted)}: "
                "the file is damaged, or mixes parts of two bundles. Fetch or export it again."
            )


def _members(parts: Mapping[str, str]) -> list[str]:
    """Names of the parts that are an ensemble's other members, in order."""
    names = [_MEMBER.format(number) for number in range(1, MOST_MEMBERS)]
    return list(takewhile(parts.__contains__, names))


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:_SHOWN]
