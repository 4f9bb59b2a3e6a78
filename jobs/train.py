"""Train projector and LoRA of a model on your own audio: python -m jobs.train --config configs/train-adapter.yaml

source.uri=... evaluation.NAME.uri=... output.uri=... After a kill the same command goes on from the last checkpoint.
Exit code 1: the best model does not listen to the audio.
"""

from __future__ import annotations

import shlex
import sys

from jobs import cli
from pipeline.training.adapter_config import AdapterConfig


def run(config: AdapterConfig) -> int:
    """Train, write the model, show the rates before and after. 1 where the best model is not grounded."""
    from pipeline.training.adapter import train_adapter
    from pipeline.training.adapter_report import place, table

    result = train_adapter(config, shlex.join(["python", "-m", "jobs.train", *sys.argv[1:]]))
    print(table(result))
    print(f"best: {place(result['best'])}; written to {config.output.uri}")
    return 0 if result["best"]["grounded"] else 1


def main(arguments: list[str]) -> int:
    """Returns the exit code of jobs.cli."""
    return cli.main(AdapterConfig, run, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
