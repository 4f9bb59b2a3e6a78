"""Train the embedded model: python -m jobs.train --config configs/train-tiny.yaml

Train projector and LoRA of a model on your own audio: python -m jobs.train adapter --config configs/train-adapter.yaml
source.uri=... evaluation.NAME.uri=... output.uri=... (python -m jobs.train adapter --help lists its settings).
"""

from __future__ import annotations

import shlex
import sys

from infra.tiny.recipe import TrainConfig
from jobs import cli
from pipeline.training.adapter_config import AdapterConfig

ADAPTER = """Train projector and LoRA of a model: python -m jobs.train adapter --config configs/train-adapter.yaml

Killed, it goes on from its last checkpoint with the same command. 1 where the best model does not listen to the audio.
"""


def tiny(config: TrainConfig) -> int:
    """All stages, or the one that `stage` names. Returns the exit code."""
    import torch

    from infra.tiny import build, measure

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


def adapter(config: AdapterConfig) -> int:
    """Train, write the model, show the rates before and after. 1 where the best model is not grounded."""
    from pipeline.training.adapter import train_adapter
    from pipeline.training.adapter_report import place, table

    result = train_adapter(config, shlex.join(["python", "-m", "jobs.train", *sys.argv[1:]]))
    print(table(result))
    print(f"best: {place(result['best'])}; written to {config.output.uri}")
    return 0 if result["best"]["grounded"] else 1


def main(arguments: list[str]) -> int:
    """`adapter` or `tiny` (or nothing, which is tiny) in front of the other arguments. Returns the exit code."""
    if arguments[:1] == ["adapter"]:
        return cli.main(AdapterConfig, adapter, ADAPTER, arguments[1:])
    return cli.main(TrainConfig, tiny, __doc__, arguments[arguments[:1] == ["tiny"] :])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
