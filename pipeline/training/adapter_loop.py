"""The training loop of an adapter on frozen weights: three losses, resumable to the bit, best step by error rate."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model.network import backbone
from pipeline.model.recogniser import AsrModel
from pipeline.training import checkpointing
from pipeline.training.adapter_batches import AudioBatch, AudioBatches
from pipeline.training.adapter_config import AdapterConfig
from pipeline.training.adapter_evaluation import Evaluated, evaluate
from pipeline.training.adapter_model import for_inference, trainable
from pipeline.training.adapter_settings import CHECKPOINT
from pipeline.training.augment import mask_mel, mask_sizes
from pipeline.training.examples import Examples
from pipeline.training.losses import DiffusionKnobs, autoregressive_loss, ctc_loss, diffusion_loss
from pipeline.training.parallel import Group
from pipeline.training.schedule import learning_rate

LOG = "log.jsonl"
Figures = dict[str, float]


class AdapterTrainer:
    """Owns projector, LoRA and optimiser; encoder and backbone never change.

    Step n is a function of the state after step n - 1 and of (seed, n, number of workers): a run that goes on from a
    checkpoint does what an uninterrupted one would have done, to the bit on the same machine.
    """

    def __init__(
        self, model: AsrModel, batches: AudioBatches, sets: dict[str, Examples], config: AdapterConfig, group: Group
    ) -> None:
        """batches: of train.batch recordings for each worker of the group."""
        self.model, self.batches, self.sets, self.config, self.group = model, batches, sets, config, group
        self.folder, t = Path(config.folder), config.train
        self.named = trainable(model)
        self.parameters = list(self.named.values())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": t.weight_decay},
                {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=t.lr,
            betas=(0.9, 0.99),
        )
        self.knobs = DiffusionKnobs(
            draws=t.draws,
            all_noise_share=t.all_noise_share,
            self_conditioning_share=t.self_conditioning_share,
            eos_weight=t.eos_weight,
        )
        self.prefill = backbone.prefill
        if t.gradient_checkpointing:
            checkpointing.enable(model.backbone)
            self.prefill = checkpointing.prefill
        self.done = 0
        self.best: dict[str, Any] | None = None
        self.best_adapter: dict[str, Tensor] = {}  # of that evaluation, on the CPU

    def step(self, step: int) -> Figures:
        """One optimiser step. Returns the losses of this worker."""
        t = self.config.train
        sums: Figures = {}
        self.optimizer.zero_grad(set_to_none=True)
        for micro in range(step * t.accumulate, (step + 1) * t.accumulate):
            rows, canvas = self.batches.at(micro)
            batch = self.batches.of(rows[self.group.rank :: self.group.world], canvas, micro, self.config.augment)
            generator = torch.Generator().manual_seed(
                ((self.config.seed * 1_000_003 + micro) * 1_009 + self.group.rank) % 2**63
            )
            with torch.autocast(self.group.device.type, torch.bfloat16, enabled=t.precision == "bfloat16"):
                loss, figures = self._losses(batch.to(self.group.device), generator)
            (loss / t.accumulate).backward()
            for name, value in figures.items():
                share = 1 if name == "infeasible" else t.accumulate
                sums[name] = sums.get(name, 0.0) + value / share
        self.group.average(self.parameters)
        for settings in self.optimizer.param_groups:
            settings["lr"] = self.lr(step)
        sums["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self.parameters, t.clip))
        self.optimizer.step()
        return sums

    def lr(self, step: int) -> float:
        t = self.config.train
        return learning_rate(step, peak=t.lr, warmup=t.warmup_steps, total=t.steps, end_fraction=t.lr_end_fraction)

    def _losses(self, batch: AudioBatch, generator: torch.Generator) -> tuple[Tensor, Figures]:
        t, model = self.config.train, self.model
        with torch.no_grad():
            mel = model.encoder.log_mel(batch.samples_BT)
            features = model.encoder.encode(mask_mel(mel, generator, **mask_sizes(self.config.augment)))
        audio = model.projector(features)
        ctc, infeasible = ctc_loss(model, audio, batch.targets_BC, batch.text_lengths)
        dropped = torch.rand(len(batch.languages), generator=generator) < t.language_dropout
        languages = [None if drop else name for name, drop in zip(batch.languages, dropped.tolist(), strict=True)]
        prompt = model.prompt_embeds(audio, languages)
        ar, cache = autoregressive_loss(model, prompt, batch.targets_BC, batch.text_lengths, self.prefill)
        diffusion, noisy = diffusion_loss(model, cache, batch.targets_BC, batch.text_lengths, self.knobs, generator)
        loss = diffusion + t.autoregressive_weight * ar + t.ctc_weight * ctc
        figures = {"loss": loss, "diffusion": diffusion, "ar": ar, "ctc": ctc, "ce_t>0.9": noisy}
        return loss, {name: float(value.detach()) for name, value in figures.items()} | {
            "infeasible": float(infeasible)
        }

    def run(self, report: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """From the last checkpoint to the end. All workers call it; rank 0 writes log.jsonl, checkpoint and best step.

        report: is called by every worker with the figures of each evaluation.
        """
        t = self.config.train
        self.restore()
        if self.done == 0 and self.best is None:
            report(self._evaluate())
        self.model.backbone.train()
        held: list[Figures] = []
        started = time.monotonic()
        while self.done < t.steps:
            held.append(self.step(self.done))
            self.done += 1
            last = self.done == t.steps
            if self.done % t.log_steps == 0 or last:
                seconds = (time.monotonic() - started) / len(held)
                self._log({"step": self.done, "of": t.steps, "lr": self.lr(self.done - 1)} | self._means(held, seconds))
                held, started = [], time.monotonic()
            if self.done % t.evaluate_steps == 0 or last:
                began = time.monotonic()
                report(self._evaluate())
                started += time.monotonic() - began
            if self.done % t.checkpoint_steps == 0 or last:
                self.save()

    def _set(self, adapter: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(adapter[name])

    def _means(self, held: list[Figures], seconds: float) -> dict[str, Any]:
        """Over steps and workers, what is not a number left out; infeasible items are counted."""
        everything = [figures for share in self.group.gather(held) for figures in share]
        means: dict[str, Any] = {}
        for name in everything[0]:
            values = [figures[name] for figures in everything if not math.isnan(figures[name])]
            if values:
                means[name] = round(sum(values) / (1 if name == "infeasible" else len(values)), 4)
        return means | {"seconds_per_step": round(seconds, 3)}

    def _evaluate(self) -> dict[str, Any]:
        """Rates of all sets; the adapter is kept where they are the lowest of a grounded model so far."""
        line = {"step": self.done, **self._rates(self._heard())}
        better = self.best is None or (line["grounded"], -line["rate"]) > (self.best["grounded"], -self.best["rate"])
        line["best"] = better
        if better:
            self.best = line
            self.best_adapter = {name: parameter.detach().cpu().clone() for name, parameter in self.named.items()}
        self._log({"evaluation": True} | line)
        self.group.gather(None)  # nobody goes on before it is written
        return line

    def _heard(self) -> Evaluated:
        with for_inference(self.model):
            return evaluate(
                self.model, self.sets, self.config.denoise, slots=self.config.compute.canvases, group=self.group
            )

    def _rates(self, found: Evaluated) -> dict[str, Any]:
        return {
            "rate": round(found.rate, 4),
            "shuffled": round(found.shuffled, 4),
            "grounded": found.grounded(self.config.grounding_margin),
            "sets": {
                name: {
                    "rate": round(one.counts.rate or 0.0, 4),
                    "errors": one.counts.errors,
                    "units": one.counts.units,
                    "languages": {code: round(c.rate or 0.0, 4) for code, c in one.languages.items()},
                }
                for name, one in found.sets.items()
            },
        }

    def _log(self, line: dict[str, Any]) -> None:
        if self.group.rank == 0:
            with (self.folder / LOG).open("a") as log:
                log.write(json.dumps(line) + "\n")

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def save(self) -> None:
        """Rank 0 writes step, adapter, optimiser, RNG state and the best adapter; a kill leaves the previous file."""
        if self.group.rank == 0:
            state = {
                "done": self.done,
                "best": self.best,
                "best_adapter": self.best_adapter,
                "adapter": {name: parameter.detach() for name, parameter in self.named.items()},
                "optimizer": self.optimizer.state_dict(),
                "rng": torch.get_rng_state(),  # unused so far: steps draw from generators of their own
            }
            _write(state, self.checkpoint)
        self.group.gather(None)

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one; lines of the log that come after it are dropped."""
        done = -1
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location=self.group.device, weights_only=True)
            if "best_adapter" not in state:
                raise ConfigError(f"folder: {self.folder}: of an older version; use a new folder")
            self.done, self.best = state["done"], state["best"]
            self.best_adapter = {name: weight.cpu() for name, weight in state["best_adapter"].items()}
            self._set(state["adapter"])
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"].cpu())
            done = self.done
        log = self.folder / LOG
        if self.group.rank == 0 and log.exists():
            lines = log.read_text().splitlines()
            kept = [line for line in lines if _step(line) <= done]
            if kept != lines:
                temporary = log.with_suffix(".tmp")
                temporary.write_text("".join(f"{line}\n" for line in kept))
                temporary.replace(log)
        self.group.gather(None)


def _write(state: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def _step(line: str) -> float:
    """Of a line of the log; a line cut by a kill belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf
