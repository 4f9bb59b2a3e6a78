"""Make the set that this repository evaluates itself on: python -m infra.tiny.make_self_evaluation.

It needs the speech engines (voices.py). 40 utterances of each language in one tar of Opus files. Training never saw
their voices and phrases, and the sample archive and the model card have other utterances. The same seed gives the same
speech.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from infra.tiny.augment import clean
from infra.tiny.make_sample_archive import RATE, encode, write_tar
from infra.tiny.phrases import is_evaluation, phrase
from infra.tiny.synthesis import MAX_SECONDS
from infra.tiny.voices import pick_voice, speak
from pipeline.config import LANGUAGES

PATH = Path(__file__).parents[2] / "pipeline" / "assets" / "evaluation" / "self.tar"
UTTERANCES = 40  # per language
SEED = 20_261


def main() -> None:
    """Write the tar."""
    members: dict[str, bytes] = {}
    for language in LANGUAGES:
        rng = random.Random(f"{SEED} {language}")
        seen: set[str] = set()
        while len(seen) < UTTERANCES:
            text = phrase(language, rng)
            if not is_evaluation(text) or text in seen:
                continue
            voice = pick_voice(language, rng, held_out=True)
            samples = clean(*speak(voice, text, rng))
            if len(samples) > MAX_SECONDS * RATE:
                continue
            key = f"{language}/{len(seen):03d}"
            seen.add(text)
            members[f"{key}.opus"] = encode(samples, "opus", 16_000, 1)
            about = {"text": text, "language": language, "speaker": str(voice)}
            members[f"{key}.json"] = (json.dumps(about, ensure_ascii=False) + "\n").encode()
    PATH.parent.mkdir(parents=True, exist_ok=True)
    write_tar(PATH, members)


if __name__ == "__main__":
    main()
