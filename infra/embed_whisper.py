"""Make an embedded Whisper with int8 weights.

    python -m infra.embed_whisper FOLDER FILE.safetensors [FILE ...]

The files are those of a Whisper checkpoint, whole or in parts; the encoder may have its names without `model.encoder.`.
Matrices get int8 weights and one float16 scale per row; convolutions, positions, norms and biases stay float16. The
same files give the same bytes. FOLDER gets encoder.safetensors, decoder.safetensors and their index. Its config.json,
generation_config.json and tokenizer.json are those of the checkpoint, copied by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model.files.weights import SCALE, read_states

LARGEST = 127  # of int8
ENCODER, DECODER = "model.encoder.", "model.decoder."


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix [rows, width] as int8 of the same shape and float16 scales [rows, 1]: a row's largest value is 127."""
    scale = (weight.float().abs().amax(1, keepdim=True) / LARGEST).half().clamp(min=torch.finfo(torch.float16).tiny)
    return (weight.float() / scale.float()).round().clamp(-LARGEST, LARGEST).to(torch.int8), scale


def stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, by their names."""
    made: dict[str, Tensor] = {}
    for name, weight in sorted(state.items()):
        if weight.dim() == 2 and "embed_positions" not in name:
            made[name], made[name + SCALE] = quantise(weight)
        else:
            made[name] = weight.half()
    return {name: weight.contiguous() for name, weight in made.items()}


def write(folder: Path, state: dict[str, Tensor]) -> None:
    """Write encoder and decoder. state: all weights; a tied head is left out."""
    named = {name if name.startswith(("model.", "proj_out.")) else ENCODER + name: w for name, w in state.items()}
    where = {}
    for part, prefix in (("encoder", ENCODER), ("decoder", DECODER)):
        tensors = stored({name: weight for name, weight in named.items() if name.startswith(prefix)})
        save_file(tensors, folder / f"{part}.safetensors", metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, f"{part}.safetensors")
    index = {"metadata": {"weights": "int8, a float16 scale per row"}, "weight_map": dict(sorted(where.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def main(arguments: list[str]) -> int:
    """Returns the exit code: 2 where the files are no Whisper checkpoint."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        write(Path(arguments[0]), read_states(map(Path, arguments[1:]), "embed_whisper"))
    except (ConfigError, OSError) as err:
        print(err, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
