"""What the judge says about findings in a split's images."""

from __future__ import annotations

import numpy as np

from pipeline import paths
from uar.core.config import DecodeParams
from uar.data.batches import Studies
from uar.evaluation.calibration import AS_TRAINED
from uar.inference.judge import Judge
from uar.inference.writing import needs_findings
from uar.tokens.cache import TokenCacheInfo, open_tokens


def finding_probabilities(decode: DecodeParams, studies: Studies) -> np.ndarray | None:
    """Probabilities of findings in the studies' images, `(S, 13)`; None if `decode` needs none.

    Raises:
        UserError: the judge is missing, or reads tokens of another encoder.
    """
    return AS_TRAINED.probabilities(judge_logits(studies)) if needs_findings(decode) else None


def judge_logits(studies: Studies) -> np.ndarray:
    """Logits of findings in the studies' images, `(S, 13)`, also for a model that reads pixels.

    Raises:
        UserError: as in `finding_probabilities`.
    """
    judge, info = Judge.load(paths.JUDGE), TokenCacheInfo.load(paths.TOKENS_INFO)
    info.refuse_other_encoder(judge.encoder_sha256, str(paths.JUDGE))
    return judge.logits(open_tokens(paths.TOKENS, info)[studies.rows, 0])
