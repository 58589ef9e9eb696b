"""params.yaml as typed, validated sections. Every knob of the project is a field here.

Declarations only: whatever follows from a parameter is computed where it is used, so that dvc.yaml
ties each computation to the stages that depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from uar.core.geometry import NETWORKS, cells_along, pool_side, token_stride

MetricName = Literal["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
Selection = Literal[MetricName, "cross_entropy"]
Precision = Literal["auto", "float32", "bfloat16"]  # auto: bfloat16 on CUDA, else float32
Arithmetic = Literal["portable", "native"]  # CPU: alike on all x86-64, or as libraries choose
OF_SAMPLES = (  # keys of `decode` that matter only if reports are chosen among samples
    "choose", "samples", "temperature", "findings_weight", "findings_threshold",
)  # fmt: skip
MOST_MEMBERS = 20  # models in an ensemble
CREDENTIALED = ("mimic_cxr",)  # data sets that only credentialed users may see
if TYPE_CHECKING:
    NetworkName = str
else:
    NetworkName = Literal[tuple(NETWORKS)]


def _expanded(path: Path) -> Path:
    """Replace a path's leading `~` with the user's home."""
    try:
        return path.expanduser()
    except RuntimeError as error:  # ~name of an unknown user
        raise ValueError(str(error).rstrip(".")) from None


UserPath = Annotated[Path, AfterValidator(_expanded)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # of a running mean
Blocks = Annotated[int, Field(ge=1, le=64)]  # residual blocks of a group


class Section(BaseModel):
    """A frozen group of parameters; unknown keys are errors.

    params.yaml states what each key is, its unit and its section of the paper; the types here state
    which values it may have.

    Raises:
        ValidationError: a key is unknown or missing, or a value is out of range (`load_params`
            turns it into a UserError).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        for fault in self._faults():
            raise ValueError(fault)
        return self

    def _faults(self) -> Iterator[str]:
        """Yield what is wrong with values that are each in range; only the first is reported."""
        yield from ()


class DemoParams(Section):
    """Size and seed of the generated data set."""

    studies: int = Field(ge=20)
    film_size: int = Field(ge=64)  # pixels
    seed: int = Field(ge=0)


class DatasetParams(Section):
    """Which raw layout is read, and from where."""

    name: str
    layout: str
    root: UserPath
    split: Literal["r2gen", "official", "random"]
    split_seed: int = Field(ge=0)
    section: Literal["findings", "impression", "findings+impression"]
    on_bad_image: Literal["error", "skip"]
    on_shared_film: Literal["keep", "skip", "error"]
    missing_view: Literal["error", "repeat", "mask"]
    images_per_study: int = Field(ge=1, le=2)
    order_views: bool
    demo: DemoParams


class ImageParams(Section):
    """Pixels of the packed array and of the model's input (section 4.1, Settings)."""

    size: int = Field(ge=16)
    crop: int = Field(ge=8, multiple_of=8)

    def _faults(self) -> Iterator[str]:
        if self.crop > self.size:
            yield f"crop {self.crop} is larger than size {self.size}"


class ReportParams(Section):
    """Report cleaning and length (section 4.1, Datasets)."""

    cleaner: Literal["iu_xray", "mimic_cxr"]
    max_length: int = Field(ge=2)  # T: words of a report and its end token


class VocabularyParams(Section):
    """Which words are kept (section 4.1, Datasets)."""

    min_count: int = Field(ge=1)


class DvaeTrainParams(Section):
    """Training of the dVAE (Ramesh et al. 2021, appendix A.2), for `dvae.source: train`."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    crop: int = Field(ge=8, multiple_of=8)  # pixels
    learning_rate: float = Field(gt=0)
    encoder_rate: float = Field(ge=0)  # as a share of learning_rate
    temperature: float = Field(gt=0)  # final Gumbel-softmax temperature
    perceptual_weight: float = Field(ge=0)  # of 1 - cosine of a pretrained network's features
    feature_weight: float = Field(ge=0)  # of 1 - cosine of those and what is read off the codes


class DistillParams(Section):
    """Codes from a pretrained network's features (Peng et al. 2022), for `dvae.source: distill`."""

    network: NetworkName
    weights: Path | None  # None: those in efficientnet_lite0's package
    components: int = Field(ge=1)  # D
    whitening: float = Field(ge=0, le=1)

    def _faults(self) -> Iterator[str]:
        if self.network == "resnet":
            yield "codes cannot be made from network resnet"
        channels = NETWORKS[self.network].channels
        if self.components > channels:
            yield (
                f"components {self.components} exceeds the {channels} channels of {self.network}"
            )
        if self.weights is None and self.network != "efficientnet_lite0":
            yield f"network {self.network} needs weights, a path to its file"


class DvaeParams(Section):
    """What makes the visual tokens: a dVAE (section 3.2), or a network's features."""

    source: Literal["train", "distill", "openai", "file"]
    encoder: UserPath | None
    decoder: UserPath | None
    codebook_size: int = Field(ge=512, le=65536)  # dall_e's floor; uint16's ceiling
    hidden: int = Field(ge=64)  # dall_e's floor
    train: DvaeTrainParams
    distill: DistillParams

    def _faults(self) -> Iterator[str]:
        if self.source in ("openai", "file") and (self.encoder is None or self.decoder is None):
            yield f"source {self.source} needs encoder and decoder, paths to weights"
        network, crop = self.distill.network, self.train.crop
        if self.train.feature_weight and crop % NETWORKS[network].stride:
            yield (
                f"train.feature_weight needs train.crop, now {crop}, to be a multiple of "
                f"{NETWORKS[network].stride}, the side in pixels of a cell of {network}"
            )


class TokenizeParams(Section):
    """Offline tokenization into the cached array."""

    views: Literal["crops", "grid"]
    crops: int = Field(ge=0)  # K
    batch_size: int = Field(ge=1)  # views
    precision: Precision


class ExtractorParams(Section):
    """Visual features for rows without tokens (`model.lsu: false`; section 4.1, Settings)."""

    network: NetworkName
    weights: str  # imagenet | none | a path
    depths: tuple[Blocks, Blocks, Blocks, Blocks]  # of resnet
    fine_tune: bool

    def _faults(self) -> Iterator[str]:
        if self.network == "densenet121" and self.weights == "imagenet":
            yield "network densenet121 has no weights imagenet: use none or a path to its file"


class ModelParams(Section):
    """Architecture, and the switches that make the variants of Tables 2-4."""

    lsu: bool
    token_embedding: Literal["random", "codes"]  # initial W_I
    integration: bool
    basis: Literal["orthogonal", "uniform", "normal"]
    basis_size: int = Field(ge=1, le=1_000_000)
    fusion: Literal["dual_gate", "none", "addition"]
    tir: Literal["none", "static", "predicted"]  # the mask of Eq. 11
    tir_scale: float = Field(gt=0, le=1e6)  # k, Eq. 11
    d_model: int = Field(ge=8, le=65_536)
    heads: int = Field(ge=1)
    encoder_layers: int = Field(ge=1, le=64)
    decoder_layers: int = Field(ge=1, le=64)
    d_ff: int = Field(ge=8, le=1_000_000)
    dropout: float = Field(ge=0, lt=1)
    word_dropout: float = Field(ge=0, lt=1)  # share of the decoder's input words
    feature_dropout: float = Field(ge=0, lt=1)  # share of tokens and words left out of Eq. 10
    image_dropout: float = Field(ge=0, lt=1)  # share of reports trained on without their films
    visual_pool: int = Field(ge=1, le=64)  # side of a square of tokens that the encoder sees as one
    findings: bool
    extractor: ExtractorParams

    def _faults(self) -> Iterator[str]:
        if self.d_model % self.heads:
            yield f"d_model {self.d_model} is not a multiple of heads {self.heads}"
        if self.integration and self.basis == "orthogonal" and self.basis_size < self.d_model:
            yield (
                f"basis_size {self.basis_size} is smaller than d_model {self.d_model}: "
                "its columns cannot be orthonormal"
            )


class StageParams(Section):
    """Length and step size of one training stage."""

    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


class StageThreeParams(Section):
    """Self-critical training after stage two, and the rewards that a report earns in it."""

    epochs: int = Field(ge=0)  # 0: none
    learning_rate: float = Field(gt=0)
    samples: int = Field(ge=2, le=100)  # per study
    temperature: float = Field(ge=0.01, le=10)
    cider: float = Field(ge=0, le=1000)  # per unit
    bleu: float = Field(ge=0, le=1000)
    contrast: float = Field(ge=0, le=1)  # share
    finding: float = Field(ge=0, le=1000)
    wrong_finding: float = Field(ge=0, le=1000)
    anchor: float = Field(ge=0, le=1000)  # per nat

    def _faults(self) -> Iterator[str]:
        if self.epochs and not (self.cider or self.bleu or self.finding):
            yield "cider, bleu and finding are all 0, so no report earns anything"


class TrainParams(Section):
    """Objective (Eq. 13) and optimisation of the stages (sections 3.5 and 4.1)."""

    seed: int = Field(ge=0)
    lambda1: float = Field(ge=0)
    lambda2: float = Field(ge=0)
    lambda3: float = Field(ge=0)
    margin: float = Field(ge=0)  # alpha, Eq. 10
    smoothness: float = Field(ge=0)  # in cosine, of Eq. 10's maximum over negatives; 0: the hardest
    findings_weight: float = Field(ge=0)
    abnormal_weight: float = Field(gt=0)  # factor on drawing a study with a finding
    whole_view: bool
    mask_reduction: Literal["sum", "mean"]
    mask_learning_rate: float | None = Field(gt=0)  # of the mask M; None: the stage's
    extractor_learning_rate: float | None = Field(gt=0)  # of its network; None: the stage's
    cache_maps: bool
    two_stage: bool
    stage_one: StageParams
    stage_two: StageParams
    stage_three: StageThreeParams
    batch_size: int = Field(ge=2)  # studies
    warmup: float = Field(ge=0, le=1)  # share of a stage's steps
    betas: tuple[Decay, Decay]
    weight_decay: float = Field(ge=0)
    gradient_clip: float = Field(gt=0)
    weight_average: Decay
    label_smoothing: float = Field(ge=0, lt=1)
    r_drop: float = Field(ge=0)
    teachers: tuple[UserPath, ...] = Field(max_length=MOST_MEMBERS)  # checkpoints
    teacher_weight: float = Field(gt=0)
    select_by: Selection
    report_every: int = Field(ge=1)  # epochs
    accumulate: int = Field(ge=1)  # micro-batches per batch
    compile: bool
    deterministic: bool

    def _faults(self) -> Iterator[str]:
        if self.batch_size < 2 * self.accumulate:
            yield (
                f"accumulate {self.accumulate} leaves fewer than two of batch_size "
                f"{self.batch_size} studies per micro-batch, so there are no negatives (Eq. 10)"
            )


class DecodeParams(Section):
    """How reports are written: by beam search, or chosen among samples."""

    choose: Literal["beam", "samples"]
    beam_size: int = Field(ge=1, le=100)
    length_penalty: float = Field(ge=0, le=10)
    guidance: float = Field(ge=0, le=100)
    ensemble: tuple[UserPath, ...] = Field(max_length=MOST_MEMBERS - 1)  # checkpoints
    samples: int = Field(ge=2, le=100)  # per study
    temperature: float = Field(ge=0.01, le=10)
    findings_weight: float = Field(ge=0, le=1000)  # lambda
    findings_threshold: float = Field(ge=0, le=1)  # probability
    batch_size: int = Field(ge=1, le=65_536)  # studies


class EvaluateParams(Section):
    """Controls and uncertainty of the evaluation."""

    constant_candidates: int = Field(ge=1)
    constant_by: MetricName
    protocols: tuple[Literal["r2gen", "coco"], ...]
    meteor: bool
    uncertain: Literal["positive", "negative", "ignore"]  # clinical labels
    chexbert: UserPath | None  # folder with its weights; None: not computed
    radgraph: UserPath | None  # likewise
    resamples: int = Field(ge=1)

    def _faults(self) -> Iterator[str]:
        if "r2gen" not in self.protocols:
            yield f"r2gen is missing from {list(self.protocols)}: it is always computed"


class ExportParams(Section):
    """Which parts of the training studies go into the exported file."""

    index: Literal["none", "ids", "reports"]


class Params(Section):
    """The whole of params.yaml."""

    seed: int = Field(ge=0)
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: Annotated[int, Field(ge=1)] | None  # None: one per core
    arithmetic: Arithmetic
    precision: Precision
    dataset: DatasetParams
    image: ImageParams
    report: ReportParams
    vocabulary: VocabularyParams
    dvae: DvaeParams
    tokenize: TokenizeParams
    model: ModelParams
    train: TrainParams
    decode: DecodeParams
    evaluate: EvaluateParams
    export: ExportParams

    def _faults(self) -> Iterator[str]:
        if self.arithmetic == "portable" and self.threads is None:
            yield (
                "arithmetic portable needs a number of threads: null is one per core, and a "
                "different number rounds sums differently"
            )
        if self.arithmetic == "portable" and self.train.compile:
            yield "train.compile true compiles for this CPU: choose false, or arithmetic native"
        if self.dvae.train.crop > self.image.size:
            yield f"dvae.train.crop {self.dvae.train.crop} exceeds image.size {self.image.size}"
        if self.dataset.name in CREDENTIALED and self.export.index == "reports":
            yield (
                f"export.index reports would pass on reports of {self.dataset.name}, which its "
                "terms forbid: choose none or ids"
            )
        yield from self._pool_faults()
        if self.decode.guidance and not self.model.image_dropout:
            yield (
                f"decode.guidance {self.decode.guidance:g} needs a model trained with "
                "model.image_dropout above 0"
            )
        yield from self._view_faults()

    def _pool_faults(self) -> Iterator[str]:
        crop, lsu = self.image.crop, self.model.lsu
        network = self.model.extractor.network
        stride, pool = NETWORKS[network].stride, pool_side(self.model.visual_pool, lsu, network)
        if not lsu and NETWORKS[network].whole_cells and crop % stride:
            yield (
                f"image.crop {crop} is not a multiple of {stride}, the side in pixels of a "
                f"cell of model.extractor.network {network}"
            )
        side = crop // self._token_stride() if lsu else cells_along(crop, network)
        if side % pool:
            yield (
                f"model.visual_pool {pool} does not divide the {side} "
                f"{'tokens' if lsu else 'cells'} along a view's side"
            )

    def _view_faults(self) -> Iterator[str]:
        stride, size, crop = self._token_stride(), self.image.size, self.image.crop
        if crop % stride:
            yield (
                f"image.crop {crop} is not a multiple of {stride}, the side in pixels of a token "
                f"with dvae.source {self.dvae.source}"
            )
        if self.tokenize.views == "grid":
            if size % stride:
                yield (
                    f"tokenize.views grid needs image.size, now {size}, "
                    f"to be a multiple of {stride}"
                )
            windows = ((size - crop) // stride + 1) ** 2
            if self.tokenize.crops > windows:
                yield (
                    f"tokenize.crops {self.tokenize.crops} exceeds the {windows} windows that "
                    f"tokenize.views grid has at image.size {size} and image.crop {crop}"
                )

    def _token_stride(self) -> int:
        return token_stride(self.dvae.source, self.dvae.distill.network)
