"""The training loop: any parameters, any phases of losses, resumable to the bit, best step by error rate."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import ConfigError
from pipeline.model.network import backbone
from pipeline.model.recogniser import AsrModel
from pipeline.training import resume
from pipeline.training.batches import Batches
from pipeline.training.losses import Figures, Phase, Prefill, Teacher, training_loss
from pipeline.training.parallel import Group
from pipeline.training.schedule import TrainingSteps

Line = dict[str, Any]  # of log.jsonl
Features = Callable[[Tensor, torch.Generator], Tensor]


class Trainer:
    """Owns the parameters that are trained, their optimiser and, where asked for, their moving average.

    Step n is a function of the state after step n - 1 and of (seed, n, number of workers): a run that goes on from a
    checkpoint does what an uninterrupted one would have done, to the bit on the same machine.
    """

    def __init__(
        self,
        model: AsrModel,
        batches: Batches,
        steps: TrainingSteps,
        *,
        phases: dict[Phase, int],
        parameters: dict[str, nn.Parameter],
        features: Features,
        folder: Path,
        seed: int,
        group: Group,
        average_decay: float | None = None,
        prefill: Prefill = backbone.prefill,
        evaluate: Callable[[], Line] | None = None,
        evaluate_steps: int = 1,
        teacher: Teacher | None = None,
        ctc_consistency: float = 0.0,
    ) -> None:
        """Make the optimiser.

        Args:
            model: with its weights.
            batches: of steps.batch recordings for each worker of the group.
            steps: batches, optimiser, weights of the losses, how often something is written.
            phases: steps of each phase, in their order.
            parameters: what is trained, by name.
            features: batch.inputs and a generator -> what the projector takes, float32 [B, frames, width], which may
                end behind the last frame with sound; with ctc_consistency two views of it, [2 * B, frames, width].
            folder: where checkpoint and log are.
            seed: of noise and masks.
            group: this worker among the others.
            average_decay: of the moving average of the weights; None: there is none.
            prefill: or `checkpointing.prefill`, which gives the same in less memory.
            evaluate: gives "rate", "grounded" and whatever else of the model as it is; None: nothing is evaluated.
            evaluate_steps: steps between evaluations; one comes before the first step, too.
            teacher: of the diffusion loss, or None.
            ctc_consistency: weight of `losses.disagreement` in the CTC loss; 0: there is one view.
        """
        self.model, self.batches, self.steps, self.phases = model, batches, steps, phases
        self.named, self.features, self.folder, self.seed, self.group = parameters, features, folder, seed, group
        self.average_decay, self.prefill = average_decay, prefill
        self.rates, self.evaluate_steps, self.teacher = evaluate, evaluate_steps, teacher
        self.ctc_consistency = ctc_consistency
        self.parameters = list(parameters.values())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": steps.weight_decay},
                {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=steps.lr,
            betas=(0.9, steps.beta2),
        )
        self.average = [p.detach().clone() for p in self.parameters] if average_decay is not None else []
        self.done = 0
        self.best: Line | None = None
        self.best_weights: dict[str, Tensor] = {}  # of that evaluation, on the CPU

    @property
    def total(self) -> int:
        """Steps of all phases."""
        return sum(self.phases.values())

    def phase(self, step: int) -> Phase:
        """The phase that a step belongs to; behind the last step, the last phase."""
        end = 0
        for name, count in self.phases.items():
            end += count
            if step < end:
                return name
        return name

    def lr(self, step: int) -> float:
        """One warm-up and one cosine over all phases."""
        return self.steps.learning_rate(step, self.total)

    def step(self, step: int) -> Figures:
        """Do one optimiser step. Returns the losses of this worker.

        Raises ConfigError where the gradients are not finite: no weight would be after the step.
        """
        accumulate = self.steps.accumulate
        sums: Figures = {}
        self.optimizer.zero_grad(set_to_none=True)
        for micro in range(step * accumulate, (step + 1) * accumulate):
            loss, figures = self._loss(micro, self.phase(step))
            (loss / accumulate).backward()
            for name, value in figures.items():
                share = 1 if name == "infeasible" else accumulate
                sums[name] = sums.get(name, 0.0) + value / share
        self.group.average(self.parameters)
        for settings in self.optimizer.param_groups:
            settings["lr"] = self.lr(step)
        sums["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.steps.clip))
        if not math.isfinite(sums["grad_norm"]):
            raise ConfigError(
                f"train.lr: {self.steps.lr:g}: the gradients of step {step + 1} are not finite, so the training has "
                "diverged; use a lower rate and a new folder"
            )
        self.optimizer.step()
        if self.average_decay is not None:
            decay = min(self.average_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return sums

    def _loss(self, micro: int, phase: Phase) -> tuple[Tensor, Figures]:
        """The loss of this worker's share of one batch."""
        rows, canvas = self.batches.at(micro)
        batch = self.batches.of(rows[self.group.rank :: self.group.world], canvas, micro).to(self.group.device)
        seed = ((self.seed * 1_000_003 + micro) * 1_009 + self.group.rank) % 2**63
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # of dropout
        with torch.autocast(self.group.device.type, torch.bfloat16, enabled=self.steps.precision == "bfloat16"):
            features = self.features(batch.inputs, generator)
            if self.steps.projector_float32:
                with torch.autocast(self.group.device.type, enabled=False):
                    audio = self.model.projector(features.float())
            else:
                audio = self.model.projector(features)
            return training_loss(
                self.model,
                audio,
                batch,
                phase,
                self.steps,
                generator,
                self.prefill,
                self.teacher,
                self.ctc_consistency,
            )

    def run(self, report: Callable[[Line], None] = lambda _: None) -> None:
        """Train from the last checkpoint to the end. All workers call it; rank 0 writes log and checkpoint.

        report: every worker calls it with the line of each evaluation.
        """
        self.restore()
        if self.rates and self.done == 0 and self.best is None:
            report(self.evaluate())
        self.model.backbone.train()
        unlogged: list[Figures] = []
        started = time.monotonic()
        while self.done < self.total:
            unlogged.append(self.step(self.done))
            self.done += 1
            last = self.done == self.total
            if self.done % self.steps.log_steps == 0 or last:
                self._log_losses(unlogged, (time.monotonic() - started) / len(unlogged))
                unlogged, started = [], time.monotonic()
            if self.rates and (self.done % self.evaluate_steps == 0 or last):
                began = time.monotonic()
                report(self.evaluate())
                started += time.monotonic() - began
            if self.done % self.steps.checkpoint_steps == 0 or last:
                self.save()

    def _log_losses(self, figures: list[Figures], seconds: float) -> None:
        """Write the means over some steps of all workers; infeasible items are counted, and NaN is left out."""
        everything = [one for share in self.group.gather(figures) for one in share]
        means: Line = {}
        for name in dict.fromkeys(name for one in everything for name in one):
            values = [one[name] for one in everything if not math.isnan(one.get(name, math.nan))]
            if values:
                means[name] = round(sum(values) / (1 if name == "infeasible" else len(values)), 4)
        line: Line = {"step": self.done, "of": self.total, "lr": self.lr(self.done - 1)}
        phase = {"phase": self.phase(self.done - 1)} if len(self.phases) > 1 else {}
        self._log(line | phase | means | {"seconds_per_step": round(seconds, 3)})

    def evaluate(self) -> Line:
        """Log the rates of the model as it is. Its weights are kept where it is the best of the run so far.

        Best is what is grounded, and of that what has the lowest rate. Raises ValueError without an `evaluate`.
        """
        if self.rates is None:
            raise ValueError("this training has nothing to evaluate with")
        line = {"step": self.done, **self.rates()}
        better = self.best is None or (line["grounded"], -line["rate"]) > (self.best["grounded"], -self.best["rate"])
        line["best"] = better
        if better:
            self.best = line
            self.best_weights = {name: parameter.detach().cpu().clone() for name, parameter in self.named.items()}
        self._log({"evaluation": True} | line)
        self.group.gather(None)  # nobody goes on before it is written
        return line

    def _log(self, line: Line) -> None:
        if self.group.rank == 0:
            with (self.folder / resume.LOG).open("a") as log:
                log.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write the checkpoint (rank 0); a kill leaves the one before."""
        if self.group.rank == 0:
            state = {
                "done": self.done,
                "best": self.best,
                "best_weights": self.best_weights,
                "weights": {name: parameter.detach() for name, parameter in self.named.items()},
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
            }
            resume.save(self.folder, state)
        self.group.gather(None)

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one; lines of the log that come after it are dropped."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = resume.load(self.folder, self.group.device)
        if state is not None:
            resume.same_shapes(self.folder, state["weights"], self.named)
            self.done, self.best = state["done"], state["best"]
            self.best_weights = {name: weight.cpu() for name, weight in state["best_weights"].items()}
            self._set([state["weights"][name] for name in self.named])
            self.average = state["average"]
            self.optimizer.load_state_dict(state["optimizer"])
        if self.group.rank == 0:
            resume.cut_log(self.folder, self.done if state is not None else -1)
        self.group.gather(None)

    def use_average(self) -> None:
        """Put the moving average in place of the weights."""
        self._set(self.average)

    def _set(self, weights: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, weights, strict=True):
                parameter.copy_(weight)
