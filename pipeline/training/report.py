"""What a person reads of a training: lines on the terminal, the closing table, the model card."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.output.page import markdown
from pipeline.training.adapter_config import AdapterConfig
from pipeline.training.examples import Examples
from pipeline.training.resume import Changes, sentences

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


def line_of(line: dict[str, Any]) -> str:
    """Write a line of log.jsonl in words; texts that an evaluation decoded follow beside their references."""
    if line.get("evaluation"):
        sets = ", ".join(f"{name} {one['rate']:.1%}" for name, one in line["sets"].items())
        verdict = "" if line["grounded"] else ": NOT GROUNDED, the text does not follow from the audio"
        best = "; the best so far" if line.get("best") else ""
        texts = "".join(
            f"\n  {name} {language}: {text!r} for {reference!r}"
            for name, one in line["sets"].items()
            for language, reference, text in one.get("texts", [])
        )
        return f"step {line['step']}: error rate {sets}; audio shuffled {line['shuffled']:.1%}{verdict}{best}{texts}"
    losses = ", ".join(f"{name} {line[name]:.3f}" for name in ("diffusion", "ar", "ctc", "ce_t>0.9") if name in line)
    infeasible = f", {line['infeasible']:.0f} infeasible for CTC" if line.get("infeasible") else ""
    return (
        f"step {line['step']}/{line['of']}: loss {line['loss']:.3f} ({losses}){infeasible}, "
        f"{line['seconds_per_step']:.2f} s a step"
    )


@contextlib.contextmanager
def shown(path: Path) -> Iterator[None]:
    """Inside the block, show every new line of log.jsonl: workers of Ray have no other way to the terminal."""
    ended = threading.Event()
    begin = len(path.read_text().splitlines()) if path.exists() else 0

    def follow() -> None:
        seen = begin
        while True:
            over = ended.wait(POLL_SECONDS)
            lines = path.read_text().splitlines() if path.exists() else []
            seen = min(seen, len(lines))  # a resumed run drops the lines after its checkpoint
            for line in lines[seen:]:
                with contextlib.suppress(ValueError):  # half a line
                    log.info("%s", line_of(json.loads(line)))
                    seen += 1
            if over:
                return

    thread = threading.Thread(target=follow, name="log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def table(result: dict[str, Any]) -> str:
    """Error rates before and after, by set and language, as a Markdown table."""
    before, after = result["before"], result["best"]
    lines = ["| set | language | before | after |", "| --- | --- | --- | --- |"]
    for name, one in before["sets"].items():
        new = after["sets"][name]
        lines.append(f"| {markdown(name)} | all ({one['units']} units) | {one['rate']:.1%} | {new['rate']:.1%} |")
        lines += [
            f"| | {markdown(code)} | {rate:.1%} | {new['languages'][code]:.1%} |"
            for code, rate in one["languages"].items()
        ]
    lines.append(f"| all, audio shuffled | | {before['shuffled']:.1%} | {after['shuffled']:.1%} |")
    return "\n".join(lines)


def card(config: AdapterConfig, result: dict[str, Any], data: Examples, rescheduled: Changes, command: str) -> str:
    """Write MODEL_CARD.md of the trained model."""
    t, best = config.train, result["best"]
    left = ", ".join(f"{reason} {count}" for reason, count in sorted(data.left_out.items())) or "none"
    grounded = "" if best["grounded"] else "\n**Not grounded**: with the audio shuffled the error rate hardly rises.\n"
    return f"""# {markdown(config.output.name or config.output.uri)}: an adapter on {markdown(config.model.name)}

Encoder, backbone and tokenizer are those of {markdown(config.model.name)}, byte by byte; projector and LoRA (rank
{config.lora.rank}, alpha {config.lora.alpha:g}, {", ".join(config.lora.targets)}; one set for the prompt pass, one for
denoising) were trained on {len(data)} recordings of {markdown(config.source.uri)} (left out: {left}).
{grounded}
## Figures

Word error rate (Mandarin: characters), normalised as in jobs.evaluate, production engine with
{config.denoise.max_steps} steps, on recordings that were not in the training.
After: step {best["step"]} of {t.steps}, the best of those evaluated. It was chosen on these same recordings, so the
figure flatters a little.

{table(result)}

## Training

{t.steps} steps of {t.batch} x {t.accumulate} x {max(1, config.compute.workers)} recordings, uniform diffusion with
two-pass self-conditioning ({t.self_conditioning_share:g}), {t.autoregressive_weight:g} autoregressive,
{t.ctc_weight:g} CTC; learning rate {t.lr:g}, seed {config.seed}.{sentences(rescheduled)}

    {command}
"""
