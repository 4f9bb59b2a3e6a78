"""Train the embedded model: python -m infra.tiny.train --config infra/tiny/configs/tiny.yaml section.key=value ..."""

from __future__ import annotations

import sys
from pathlib import Path

from infra.tiny.recipe import TrainConfig
from jobs import cli


def run(config: TrainConfig) -> int:
    """Run all stages, or the one that `stage` names. Returns exit code 0."""
    import torch

    from infra.tiny import build, measure
    from pipeline.training.report import shown
    from pipeline.training.resume import LOG

    torch.set_num_threads(config.threads)
    build.check(config)
    if config.stage in ("all", "corpus"):
        build.make_corpus(config)
    if config.stage in ("all", "features"):
        build.make_features(config)
    if config.stage in ("all", "train"):
        with shown(Path(config.folder) / LOG):
            build.trainer(config).run()
    if config.stage in ("all", "export"):
        finished = build.trainer(config)
        measurement = build.evaluate(finished, config)
        print(measure.table(measurement))
        given = [argument for argument in sys.argv[1:] if not argument.startswith("stage=")]
        build.export(finished, config, measurement, " ".join(["python -m infra.tiny.train", *given]))
        print(f"written to {config.export}")
    return 0


def main(arguments: list[str]) -> int:
    """Run the command line. Returns the exit code of jobs.cli."""
    return cli.main("infra.tiny.train", TrainConfig, run, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
