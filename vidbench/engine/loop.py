"""The training loop: steps, accumulation, validation, checkpoints, resume."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from vidbench.engine import compiling, ranks, trackers
from vidbench.engine.optimize import DTYPES, Fit, backends, learning_rate, make_optimizer
from vidbench.engine.prefetch import Prepare, moved, prepared
from vidbench.engine.runs import Run, RunError
from vidbench.system.errors import InputError, calm_stops
from vidbench.system.progress import Progress, Style, words
from vidbench.system.signals import Interrupted, deferred, stop_at_second


def fit(
    method: nn.Module,
    loader: DataLoader,
    recipe: Fit,
    run: Run,
    progress: Style = "auto",
    validate: Callable[[float], dict] | None = None,
    prepare: Prepare = moved,
) -> nn.Module:
    """Train `method` on `loader` into `run`; resume from its newest checkpoint if it has one.

    A resumed run equals an uninterrupted one (on a CPU to the bit): order, augmentation and the
    random state of a step follow from the seed and the step alone.

    Args:
        method: method(batch) -> (loss [], dict of numbers). It may have `after_step()`, called
            after each optimizer step; `parameter_groups()`, see make_optimizer; `encoders()`, see
            compile_encoders; and `ready`: while that is False (a queue not yet full) the batch is
            seen but no step is taken.
        loader: Yields dicts of tensors with "row". Its `batch_sampler` has `epoch` and `start`, and
            yields this rank's part of each global batch.
        progress: See system.progress.
        validate: validate(epoch) -> dict of numbers, called on every rank before the first step and
            after every `validate_every` epochs, and logged to monitor.jsonl; its "loss" steers a
            plateau.
        prepare: prepare(batch, device) -> the batch on the device.

    Returns:
        `method`, trained, on this rank's device.

    Raises:
        InputError: the batch is not divisible by ranks and accumulation parts, or is larger than
            the data set.
        Interrupted: a signal came; the run has saved itself.
        BusyError: another process trains into the folder.
        RunError: the run's checkpoint is damaged or another network's, or `ready` never became
            true.
        OSError: the disk is full; the message says what to do.
        FloatingPointError: a loss (the message names step and rows) or a weight is not finite.
    """
    if recipe.batch % (ranks.world() * recipe.accumulate):
        raise InputError(
            f"the global batch {recipe.batch} is not divisible by {ranks.world()} ranks x "
            f"{recipe.accumulate} accumulation parts."
        )
    lock = run.lock() if ranks.rank() == 0 else nullcontext()
    with lock, backends(recipe.deterministic), deferred(stop_at_second) as stops:
        trainer = _Trainer(
            method.to(ranks.device()), loader, recipe, run, progress, validate, prepare
        )
        state = "complete"
        try:
            trainer.resume()
            trainer.train(stops)
        except BaseException as error:
            # Whichever rank fails says so: rank 0 may hang in a collective until it is killed.
            state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(OSError):  # a full disk: what is raised below says so
                run.status(
                    state,
                    step=trainer.step,
                    rank=ranks.rank(),
                    error=f"{type(error).__name__}: {error}",
                )
            raise
        finally:
            trainer.followers.close(state)
            # Workers leave signals to this process, so Python's exit, which sends them one, would
            # never end.
            workers: Any = getattr(loader, "_iterator", None)
            if workers is not None:
                workers._shutdown_workers()
        if ranks.rank() == 0:
            run.status("complete", step=trainer.step, seconds=trainer.seconds)
    return method


class _Trainer:
    """The loop's state: what a checkpoint must hold and what a log line counts."""

    def __init__(
        self,
        method: Any,
        loader: Any,
        recipe: Fit,
        run: Run,
        progress: Style,
        validate: Callable[[float], dict] | None,
        prepare: Prepare = moved,
    ):
        self.method, self.loader, self.recipe, self.run = method, loader, recipe, run
        self.validate, self.prepare = validate, prepare
        self.steps_per_epoch = len(loader.batch_sampler)
        if self.steps_per_epoch == 0 and recipe.epochs:
            raise InputError(
                f"no whole batch: the data set is smaller than the global batch {recipe.batch}."
            )
        self.optimizer = make_optimizer(recipe, method)
        fp16 = recipe.precision == "fp16" and ranks.device().type == "cuda"
        self.scaler = torch.amp.GradScaler(ranks.device().type, enabled=fp16)
        self.step, self.seconds = 0, 0.0
        self.scale, self.best, self.bad_epochs, self.dropped = 1.0, math.inf, 0, 0
        self.pending: list[tuple[int, torch.Tensor, dict]] = []
        self.epoch_losses: list[float] = []
        self.wrapped, self.alone = method, nullcontext
        self.readable = compiling.readable if recipe.compile else nullcontext
        if recipe.compile:
            compiling.compile_encoders(method)
        if ranks.world() > 1:
            self.wrapped = DistributedDataParallel(
                method,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                static_graph=recipe.accumulate == 1,  # it does not know `no_sync`
            )
            self.alone = self.wrapped.no_sync
        self.progress, self.followers = None, trackers.Followers({})
        if ranks.rank() == 0:
            total = recipe.epochs * self.steps_per_epoch
            self.progress = Progress(run.folder.name, total, "step", progress, first=True)

    def resume(self) -> None:
        place = self.run.checkpoint()
        self.fresh = place is None
        if place:
            state = self.run.training()
            try:
                self.method.load_state_dict(self.run.weights())
                self.optimizer.load_state_dict(state["optimizer"])
            except (RuntimeError, ValueError) as error:
                if isinstance(error, RunError):
                    raise
                raise RunError(
                    f"{place} holds another network's weights, or another optimizer's state: "
                    f"{error}\nUse another folder, or delete that checkpoint to start again."
                ) from error
            if state["scaler"]:  # empty where it was off, as on a CPU
                self.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.scale, self.best, self.bad_epochs, self.dropped = state["plateau"]
            self.epoch_losses = state["epoch_losses"]
            if self.progress:
                self.progress.resume(self.step)
        ranks.barrier()  # no rank writes before all have read
        if ranks.rank() == 0:
            # the first validation comes before the first checkpoint
            self.run.rewind(self.step if place else -1)

    def save(self) -> None:
        self.flush()
        weights = self.method.state_dict()
        for name, value in weights.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise FloatingPointError(
                    f"{name} is not finite at step {self.step}, after a finite loss; it was not "
                    "saved. Lower lr, set clip_norm or use fp32. The last checkpoint is whole."
                )
        if ranks.rank() == 0:
            state = {
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "plateau": (self.scale, self.best, self.bad_epochs, self.dropped),
                "epoch_losses": self.epoch_losses,
            }
            self.run.save(self.step, weights, state)
        ranks.barrier()

    def train(self, stops: list[str]) -> None:
        if ranks.rank() == 0:
            self.run.status("running", step=self.step)
            begun = -1 if self.fresh else self.step
            self.followers = trackers.follow(self.run.folder, self.run.values, begun)
        self.method.train()
        total = self.recipe.epochs * self.steps_per_epoch
        if self.fresh:
            self.monitor()
            self.save()
        while self.step < total:
            self.epoch(stops)
        if total and not getattr(self.method, "ready", True):
            raise RunError(
                f"{self.run.folder} took no optimizer step in {total} iterations: the method never "
                "became ready, so its weights are random. Train more epochs or shrink its queue."
            )
        if self.progress:
            self.progress.close()

    def epoch(self, stops: list[str]) -> None:
        """From the current step to the end of its epoch."""
        number, start = divmod(self.step, self.steps_per_epoch)
        self.loader.batch_sampler.epoch, self.loader.batch_sampler.start = number, start
        mark, stop = time.perf_counter(), False
        self.window = [mark, 0.0]
        for batch in prepared(self.loader, ranks.device(), self.prepare):
            waited = time.perf_counter() - mark
            self.one_step(batch)
            del batch  # its memory serves the next one
            now = time.perf_counter()
            self.seconds += now - mark
            self.window[1] += waited
            mark = now
            if self.step % self.recipe.log_every == 0:
                self.flush()
            # All ranks must stop at one step. They agree where they log, because to agree at each
            # step would make the host wait for the card.
            agreed = self.step % self.recipe.log_every == 0 or not self.step % self.steps_per_epoch
            if ranks.world() == 1 or agreed:
                stop = ranks.any_rank(bool(stops))
            if stop and self.step % self.steps_per_epoch:
                self.interrupt(stops)
        self.flush()
        self.end_of_epoch(number + 1)
        if stop:
            self.interrupt(stops)

    def interrupt(self, stops: list[str]) -> None:
        """Save and stop."""
        self.save()
        name = stops[0] if stops else "another rank's signal"
        calm_stops(Interrupted)
        raise Interrupted(
            f"stopped by {name} at step {self.step}; saved. The same call resumes it."
        )

    def one_step(self, batch: dict) -> None:
        """One optimizer step on this rank's part of a global batch, on its device."""
        device, recipe = ranks.device(), self.recipe
        # A step's random state follows from seed, step and rank, so a resumed run draws what an
        # uninterrupted one does.
        torch.manual_seed((recipe.seed * 1_000_003 + self.step) * 1009 + ranks.rank())
        rate = learning_rate(recipe, self.step / self.steps_per_epoch, self.scale)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        losses, logged = [], []
        parts = list(_parts(batch, recipe.accumulate))
        for part in parts:
            # ranks exchange gradients once a step, with the last part
            with nullcontext() if part is parts[-1] else self.alone():
                with self.readable():
                    with torch.autocast(
                        device.type, DTYPES[recipe.precision], enabled=recipe.precision != "fp32"
                    ):
                        loss, numbers = self.wrapped(part)
                    self.scaler.scale(loss / recipe.accumulate).backward()
            losses.append(loss.detach())
            logged.append(numbers)
        if getattr(self.method, "ready", True):
            if recipe.clip_norm:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.method.parameters(), recipe.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if hasattr(self.method, "after_step"):
                self.method.after_step()
        self.optimizer.zero_grad(set_to_none=True)
        means = {
            name: torch.stack([numbers[name] for numbers in logged]).mean() for name in logged[0]
        }
        self.pending.append(
            (self.step, batch["row"], {"loss": torch.stack(losses).mean(), **means})
        )
        self.step += 1
        if device.type == "cpu" and not bool(torch.isfinite(self.pending[-1][2]["loss"])):
            self.flush()

    def flush(self) -> None:
        """Check the losses since the last call; log their mean over steps and ranks; move the bar."""
        if not self.pending:
            return
        names = list(self.pending[0][2])
        # one read for all numbers of all steps: each read makes the host wait for the card
        rows = [torch.stack([step[2][name].float() for name in names]) for step in self.pending]
        table = torch.stack(rows)
        self._check_losses(table[:, names.index("loss")].tolist())
        table = ranks.mean(table).cpu()
        means = dict(zip(names, table.nanmean(dim=0).tolist(), strict=True))
        self.epoch_losses += table[:, names.index("loss")].tolist()
        now = time.perf_counter()
        data_share = self.window[1] / max(now - self.window[0], 1e-9)
        self.window = [now, 0.0]
        self.pending = []
        if self.progress:
            line = {
                "step": self.step,
                "epoch": self.step / self.steps_per_epoch,
                **means,
                "lr": self.optimizer.param_groups[0]["lr"],
                "data_share": round(data_share, 3),
                "seconds": round(self.seconds, 2),
                "clips": self.step * self.recipe.batch,
            }
            # a number that no step has, such as one that counts labels, is absent, not NaN
            line = {name: value for name, value in line.items() if not _missing(value)}
            self._log("metrics", {name: _plain(value) for name, value in line.items()})
            rest = {n: line[n] for n in [*means, "lr", "data_share"] if n in line}
            self.progress.show(
                self.step,
                words({"loss": means["loss"]}, ".3f"),
                f"{self.run.folder.name} epoch {line['epoch']:.2f}/{self.recipe.epochs} "
                f"step {self.step} {words(rest)}",
            )

    def _log(self, name: str, line: dict) -> None:
        """Append a line to a log of the run, and show it to trackers."""
        self.run.log(name, **line)
        self.followers.log(name, self.step, line)

    def _check_losses(self, losses: list[float]) -> None:
        for (step, rows, _), loss in zip(self.pending, losses, strict=True):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} at step {step} (epoch "
                    f"{step // self.steps_per_epoch}), rows {rows.tolist()}. Look at these rows; "
                    "lower lr or use fp32. The last checkpoint is whole."
                )

    def monitor(self) -> dict:
        """Validate, log what was found, and go back to training."""
        if self.validate is None:
            return {}
        with compiling.eager() if self.recipe.compile else nullcontext():
            numbers = self.validate(self.step / self.steps_per_epoch)
        self.method.train()
        if ranks.rank() == 0:
            plain = {name: _plain(value) for name, value in numbers.items()}
            place = {"step": self.step, "epoch": self.step / self.steps_per_epoch}
            self._log("monitor", place | plain)
        return numbers

    def end_of_epoch(self, epoch: int) -> None:
        due = epoch % self.recipe.validate_every == 0 or epoch == self.recipe.epochs
        validated = self.monitor() if due else {}
        if self.recipe.schedule == "plateau" and (due or self.validate is None):
            self.plateau(validated.get("loss", sum(self.epoch_losses) / len(self.epoch_losses)))
        self.epoch_losses = []
        if epoch % self.recipe.save_every == 0 or epoch == self.recipe.epochs:
            self.save()

    def plateau(self, loss: float) -> None:
        """Lower the rate if the loss has not fallen for more than `patience` epochs."""
        better = loss < self.best * (1 - 1e-4)
        self.best, self.bad_epochs = (loss, 0) if better else (self.best, self.bad_epochs + 1)
        if self.bad_epochs > self.recipe.patience and (
            not self.recipe.drops or self.dropped < self.recipe.drops
        ):
            self.scale, self.bad_epochs, self.dropped = (
                self.scale * self.recipe.gamma,
                0,
                self.dropped + 1,
            )


def _parts(batch: dict, count: int):
    """A batch cut into `count` equal parts along its rows."""
    size = len(batch["row"]) // count
    for part in range(count):
        yield {name: value[part * size : (part + 1) * size] for name, value in batch.items()}


def _missing(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _plain(value: float) -> float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
