"""`python -m benchmarks.distributed`: training in two processes against one, a core each.

Both take the same steps on the same whole batches with the same code, in turn, started by torchrun
with one thread per process. Rank 0 reports the seconds of an epoch after a first, untimed one.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

import numpy as np
import torch

from benchmarks.common import Comparison, machine, row, seconds
from benchmarks.iu_xray import WORDS, iu_xray_params, make_model, tokens_per_image
from uar.core.config import Params
from uar.core.distributed import launch
from uar.data.batches import Studies, TokenSource
from uar.data.text import Vocabulary
from uar.training.objective import Objective
from uar.training.stage import Trainer, TrainingConfig, TrainingData
from uar.training.validation import Validation

STEPS = 6
ROUNDS = 3


def random_studies(params: Params, count: int) -> tuple[Studies, Vocabulary]:
    """Studies of random tokens and random words, and the vocabulary of these words."""
    generator = np.random.default_rng(0)
    per_study = params.dataset.images_per_study
    shape = count * per_study, 1 + params.tokenize.crops, tokens_per_image(params)
    tokens = generator.integers(params.dvae.codebook_size, size=shape, dtype=np.uint16)
    words = [f"word{number}" for number in range(700)]
    reports = [" ".join(generator.choice(words, WORDS)) for _ in range(count)]
    vocabulary = Vocabulary.build(words, min_count=1)
    rows = np.arange(count * per_study).reshape(count, per_study)
    source, length = TokenSource(tokens), params.report.max_length
    return Studies(source, rows, reports, vocabulary=vocabulary, max_length=length), vocabulary


def measure() -> None:
    """Train as one of the processes; rank 0 prints the seconds of an epoch."""
    torch.set_num_threads(1)
    fabric = launch("cpu")
    params = iu_xray_params()
    studies, vocabulary = random_studies(params, STEPS * params.train.batch_size)
    model = make_model(params, fabric.device)
    validation = Validation(studies, vocabulary, params.decode, fabric)
    config = TrainingConfig(
        number=2,
        stage=params.train.stage_two,
        objective=Objective.of_stage(params.train, with_mask=True),
        params=params.train,
        precision=params.precision,
        from_trained=False,
    )
    data = TrainingData(studies=studies, validation=validation, encoder_sha256=None)
    trainer = Trainer(fabric, model, data=data, config=config)

    def epoch() -> None:
        trainer.train_epoch(1)
        fabric.barrier()

    epoch()
    taken = seconds(epoch)
    if fabric.is_global_zero:
        print(taken)


def run(processes: int) -> float:
    """Seconds of an epoch in this number of processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={processes}", "-m", "benchmarks.distributed", "measure"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print the row; with the argument `measure`, train as one of its processes."""
    if sys.argv[1:] == ["measure"]:
        measure()
        return
    print(machine(torch.device("cpu")))
    times = [(run(2), run(1)) for _ in range(ROUNDS)]
    medians = (statistics.median(column) for column in zip(*times, strict=True))
    row("training, two processes against one, a thread each", Comparison(*medians), steps=STEPS)


if __name__ == "__main__":
    main()
