"""The training loop of the embedded model: CTC, autoregressive, uniform diffusion; resumable at every checkpoint."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infra.tiny.data import Batch, Batches, mask_features
from infra.tiny.recipe import PhaseSection
from pipeline.config import ConfigError
from pipeline.model.recogniser import AsrModel
from pipeline.training.losses import DiffusionKnobs, autoregressive_loss, ctc_loss, diffusion_loss
from pipeline.training.schedule import Changes, learning_rate


class Trainer:
    """Owns projector, backbone, optimiser and the moving average of the weights. The encoder is not part of it.

    step(n) is a function of the state after step n - 1 and of (seed, n): the same seed gives the same run on the same
    machine, and a run resumed from a checkpoint goes on as if it had not stopped, unless it is given more steps.
    """

    def __init__(self, model: AsrModel, batches: Batches, phases: PhaseSection, seed: int, folder: Path) -> None:
        self.model, self.batches, self.phases, self.seed, self.folder = model, batches, phases, seed, folder
        vision = {
            id(p)
            for m in (model.backbone.model.encoder.vision_tower, model.backbone.model.encoder.embed_vision)
            for p in m.parameters()
        }
        named = [(n, p) for n, p in model.named_parameters() if not n.startswith("encoder.") and id(p) not in vision]
        self.parameters = [parameter for _, parameter in named]
        decayed = [p for p in self.parameters if p.ndim >= 2]
        plain = [p for p in self.parameters if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": phases.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=phases.lr,
            betas=(0.9, 0.98),
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.done = 0
        self.rescheduled: Changes = []
        self.knobs = DiffusionKnobs(
            draws=phases.draws,
            all_noise_share=phases.all_noise_share,
            self_conditioning_share=phases.self_conditioning_share,
            eos_weight=phases.eos_weight,
        )

    @property
    def total(self) -> int:
        return self.phases.ctc_steps + self.phases.autoregressive_steps + self.phases.diffusion_steps

    def phase(self, step: int) -> str:
        if step < self.phases.ctc_steps:
            return "ctc"
        return "autoregressive" if step < self.phases.ctc_steps + self.phases.autoregressive_steps else "diffusion"

    def lr(self, step: int) -> float:
        """Linear warm-up, then one cosine over all phases."""
        p = self.phases
        return learning_rate(step, peak=p.lr, warmup=p.warmup_steps, total=self.total, end_fraction=p.lr_end_fraction)

    def step(self, step: int) -> dict[str, float]:
        """One optimiser step. Returns the losses of this step."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        batch = self.batches.at(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss, figures = self._losses(batch, self.phase(step), generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        figures["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self.parameters, 1.0))
        self.optimizer.step()
        decay = min(self.phases.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return figures

    def _losses(self, batch: Batch, phase: str, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        features = mask_features(batch.features_BFD, generator)
        audio = self.model.projector(features)
        ctc, infeasible = ctc_loss(self.model, audio, batch.targets_BC, batch.text_lengths)
        figures = {"ctc": float(ctc.detach()), "infeasible": float(infeasible)}
        if phase == "ctc":
            return ctc, figures
        dropped = torch.rand(len(batch.languages), generator=generator) < self.phases.language_dropout
        languages = [None if drop else name for name, drop in zip(batch.languages, dropped.tolist(), strict=True)]
        prompt = self.model.prompt_embeds(audio, languages)
        ar, cache = autoregressive_loss(self.model, prompt, batch.targets_BC, batch.text_lengths)
        figures["ar"] = float(ar.detach())
        if phase == "autoregressive":
            return ar + self.phases.ctc_weight * ctc, figures
        diffusion, noisy = diffusion_loss(
            self.model, cache, batch.targets_BC, batch.text_lengths, self.knobs, generator
        )
        figures |= {"diffusion": float(diffusion.detach()), "ce_t>0.9": float(noisy)}
        weights = self.phases
        return diffusion + weights.autoregressive_weight * ar + weights.ctc_weight * ctc, figures

    def run(self) -> None:
        """From the last checkpoint to the end; a line per `log_steps` in log.jsonl and on the terminal."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.restore()
        self.model.train()
        sums: dict[str, list[float]] = {}
        started, start_step = time.time(), self.done
        with (self.folder / "log.jsonl").open("a") as log:
            while self.done < self.total:
                for name, value in self.step(self.done).items():
                    sums.setdefault(name, []).append(value)
                self.done += 1
                if self.done % self.phases.log_steps == 0 or self.done == self.total:
                    means = {name: round(sum(values) / len(values), 4) for name, values in sums.items()}
                    rate = (time.time() - started) / (self.done - start_step)
                    line = {"step": self.done, "phase": self.phase(self.done - 1), "seconds_per_step": round(rate, 3)}
                    print(json.dumps(line | means), flush=True)
                    log.write(json.dumps(line | means) + "\n")
                    log.flush()
                    sums = {}
                if self.done % self.phases.checkpoint_steps == 0 or self.done == self.total:
                    self.save()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Atomic: a kill leaves the previous checkpoint."""
        state: dict[str, Any] = {
            "done": self.done,
            "parameters": [p.detach() for p in self.parameters],
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "settings": self.settings,
            "rescheduled": self.rescheduled,
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    @property
    def settings(self) -> dict[str, Any]:
        """What the steps depend on, apart from the model: a checkpoint of others is not gone on from."""
        phases = self.phases.model_dump(exclude={"checkpoint_steps", "log_steps"})
        return {"seed": self.seed, "utterances": len(self.batches.rows)} | {f"phases.{k}": v for k, v in phases.items()}

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one. Raises ConfigError where it was made with other settings.

        Another number of diffusion steps is allowed, longer or shorter, as long as it lies ahead: the run goes on where
        the cosine of the new total is at its step.
        """
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        before = state["settings"]
        self.rescheduled = state.get("rescheduled", [])
        if self.phases.diffusion_steps != before["phases.diffusion_steps"] and self.total > state["done"]:
            total = self.total - self.phases.diffusion_steps + before["phases.diffusion_steps"]
            self.rescheduled = [*self.rescheduled, [state["done"], total]]
            before = before | {"phases.diffusion_steps": self.phases.diffusion_steps}
        if changed := [name for name, value in self.settings.items() if before.get(name) != value]:
            was = ", ".join(f"{name} was {before.get(name)}, now {self.settings[name]}" for name in changed)
            raise ConfigError(f"folder: {self.checkpoint}: of a run with other settings ({was}); use a new folder")
        self.done = state["done"]
        with torch.no_grad():
            for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])

    def use_average(self) -> None:
        """Put the moving average in place of the weights (for evaluation and export)."""
        with torch.no_grad():
            for parameter, mean in zip(self.parameters, self.average, strict=True):
                parameter.copy_(mean)
