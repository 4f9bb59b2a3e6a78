"""Train an adapter on your own audio: python -m jobs.train --config configs/train-adapter.yaml source.uri=...

evaluation.NAME.uri=... output.uri=...
An adapter is the projector and the LoRA of a model. After a kill the same command goes on from the last checkpoint.
Exit code 1 also says that the best model does not listen to the audio.
"""

from __future__ import annotations

import functools
import sys

from jobs import cli
from pipeline.training.adapter_config import AdapterConfig


def run(config: AdapterConfig, command: str) -> int:
    """Train, write the model (its card names `command`), show the rates. 1 where the best model is not grounded."""
    from pipeline.training.adapter import train_adapter
    from pipeline.training.report import table

    result = train_adapter(config, command)
    print(table(result))
    print(f"best: step {result['best']['step']}; written to {config.output.uri}")
    return 0 if result["best"]["grounded"] else 1


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    words = sys.argv[1:] if arguments is None else arguments
    work = functools.partial(run, command=cli.command("train", words))
    return cli.main("train", AdapterConfig, work, __doc__, words)


if __name__ == "__main__":
    sys.exit(main())
