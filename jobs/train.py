"""Train the embedded model: python -m jobs.train --config configs/train-tiny.yaml"""

from __future__ import annotations

import sys

from jobs import cli
from pipeline.training.recipe import TrainConfig


def run(config: TrainConfig) -> int:
    """All stages, or the one that `stage` names. Returns the exit code."""
    import torch

    from pipeline.training import build, measure

    torch.set_num_threads(config.threads)
    build.check(config)
    if config.stage in ("all", "corpus"):
        build.make_corpus(config)
    if config.stage in ("all", "features"):
        build.make_features(config)
    if config.stage in ("all", "train"):
        build.trainer(config).run()
    if config.stage in ("all", "export"):
        finished = build.trainer(config)
        measurement = build.evaluate(finished, config)
        print(measure.table(measurement))
        given = [argument for argument in sys.argv[1:] if not argument.startswith("stage=")]
        build.export(finished, config, measurement, " ".join(["python -m jobs.train", *given]))
        print(f"written to {config.export}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.main(TrainConfig, run, __doc__))
