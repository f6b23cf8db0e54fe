"""The one training loop: optimizer, schedule, precision, accumulation, resume."""

import math
import os
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vidbench.engine import ranks
from vidbench.engine.runs import Run, RunError
from vidbench.system.progress import Progress, Style, words
from vidbench.system.ranges import AT_LEAST_0, AT_LEAST_1, SHARE, Range, check_fields
from vidbench.system.signals import Interrupted, deferred, stop_at_second

Schedule = Literal["constant", "cosine", "cosine_whole", "milestones", "plateau"]

SEED = Range(0, 2**32 - 1)  # a step's seed is a billion times as large and must fit 64 bits


@dataclass(frozen=True)
class Fit:
    """How a method is optimized. Batches are global: the number of processes is a fact of the
    launch.

    schedule: constant, cosine (to `final_lr`, from where the warm-up ends), cosine_whole (the same
    over all epochs, the warm-up over its beginning, as in PySlowFast), milestones (times `gamma` at
    each of `milestones`, in epochs) or plateau (times `gamma` when the validation loss, or without
    validation the epoch's mean loss, has not fallen for `patience` epochs, at most `drops` times
    unless that is 0). The warm-up is linear, from `warmup_lr` on. nesterov: of SGD's momentum.
    decay_vectors: whether weight_decay acts on biases and norms, too. precision: fp32, bf16 or fp16
    autocast. deterministic: torch's deterministic algorithms only, so that a GPU, too, repeats a
    run to the bit, more slowly; an operation that has none raises RuntimeError."""

    epochs: Annotated[int, AT_LEAST_0] = 1
    batch: Annotated[int, AT_LEAST_1] = 32
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, AT_LEAST_0] = 1e-3
    weight_decay: Annotated[float, AT_LEAST_0] = 1e-5
    decay_vectors: bool = True
    nesterov: bool = False
    schedule: Schedule = "constant"
    milestones: Annotated[tuple[int, ...], AT_LEAST_0] = ()
    gamma: Annotated[float, SHARE] = 0.1
    patience: Annotated[int, AT_LEAST_0] = 10
    drops: Annotated[int, AT_LEAST_0] = 0
    warmup_epochs: Annotated[float, AT_LEAST_0] = 0.0
    warmup_lr: Annotated[float, AT_LEAST_0] = 0.0
    final_lr: Annotated[float, AT_LEAST_0] = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    deterministic: bool = False
    accumulate: Annotated[int, AT_LEAST_1] = 1
    clip_norm: Annotated[float, AT_LEAST_0] = 0.0
    seed: Annotated[int, SEED] = 0
    workers: Annotated[int, AT_LEAST_0] = 0
    save_every: Annotated[int, AT_LEAST_1] = 1
    validate_every: Annotated[int, AT_LEAST_1] = 1
    log_every: Annotated[int, AT_LEAST_1] = 20

    def __post_init__(self) -> None:
        check_fields(self)


def fit(
    method: nn.Module,
    loader,
    recipe: Fit,
    run: Run,
    progress: Style = "auto",
    validate: Callable[[float], dict] | None = None,
) -> nn.Module:
    """Train `method` on `loader` into `run`; takes up where the run's newest checkpoint stands.

    method(batch) -> (loss [], dict of numbers). It may have `after_step()`, called after each
    optimizer step, `parameter_groups()`, see make_optimizer, and `ready`: while that is False (a
    queue not yet full) the batch is seen but no step is taken. validate(epoch) -> dict of numbers
    is called on every rank before the first step and after every `validate_every` epochs, and
    logged to monitor.jsonl; its "loss" steers a plateau. loader yields dicts of tensors with "row";
    its `batch_sampler` has `epoch` and `start`, and yields this rank's part of each global batch. A
    resumed run equals an uninterrupted one (on a CPU to the bit): order, augmentation and the
    random state of a step follow from the seed and the step alone. Raises Interrupted after a save,
    BusyError where another process trains into the folder, RunError where its checkpoint is damaged
    or another network's, OSError saying what to do where the disk is full, FloatingPointError naming step and
    rows at a loss not finite."""
    if recipe.batch % (ranks.world() * recipe.accumulate):
        raise ValueError(
            f"the global batch {recipe.batch} is not divisible by {ranks.world()} ranks x "
            f"{recipe.accumulate} accumulation parts."
        )
    lock = run.lock() if ranks.rank() == 0 else nullcontext()
    with lock, _repeatable(recipe.deterministic), deferred(stop_at_second) as stops:
        trainer = _Trainer(method.to(ranks.device()), loader, recipe, run, progress, validate)
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
            # Workers leave signals to this process, so Python's exit, which sends them one, would
            # wait for ever.
            if getattr(loader, "_iterator", None) is not None:
                loader._iterator._shutdown_workers()
        if ranks.rank() == 0:
            run.status("complete", step=trainer.step, seconds=trainer.seconds)
    return method


def learning_rate(recipe: Fit, epoch: float, scale: float = 1.0) -> float:
    """The rate at a fractional epoch; `scale` is what a plateau has left of it."""
    if epoch < recipe.warmup_epochs:
        share = (epoch + 1e-9) / recipe.warmup_epochs
        return (
            recipe.warmup_lr
            + (learning_rate(recipe, recipe.warmup_epochs, scale) - recipe.warmup_lr) * share
        )
    if recipe.schedule in ("cosine", "cosine_whole"):
        start = recipe.warmup_epochs if recipe.schedule == "cosine" else 0.0
        share = (epoch - start) / max(recipe.epochs - start, 1e-9)
        return recipe.final_lr + (recipe.lr - recipe.final_lr) * 0.5 * (
            1 + math.cos(math.pi * min(share, 1))
        )
    if recipe.schedule == "milestones":
        return recipe.lr * recipe.gamma ** sum(
            epoch >= milestone for milestone in recipe.milestones
        )
    return recipe.lr * scale  # constant or plateau


def make_optimizer(recipe: Fit, method: Any) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD with momentum 0.9 over the parameters that want gradients.

    Where the method has `parameter_groups()`, its dicts {"params", "scale"} say by what each rate
    is multiplied. Without `decay_vectors`, parameters of fewer than two axes (biases, norms) are
    groups of their own, not decayed."""
    groups = (
        method.parameter_groups()
        if hasattr(method, "parameter_groups")
        else [{"params": method.parameters()}]
    )
    groups = [
        {**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups
    ]
    if not recipe.decay_vectors:
        groups = [
            {
                **group,
                "params": [p for p in group["params"] if (p.ndim > 1) == decayed],
                **({} if decayed else {"weight_decay": 0.0}),
            }
            for group in groups
            for decayed in (True, False)
        ]
    if recipe.nesterov and recipe.optimizer != "sgd":
        raise ValueError(f"nesterov is of SGD's momentum; got the optimizer {recipe.optimizer!r}.")
    common: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    match recipe.optimizer:
        case "adam":
            return torch.optim.Adam(groups, **common)
        case "adamw":
            return torch.optim.AdamW(groups, **common)
        case "sgd":
            return torch.optim.SGD(groups, momentum=0.9, nesterov=recipe.nesterov, **common)


@contextmanager
def _repeatable(wanted: bool):
    """Inside, torch takes deterministic algorithms only, where wanted."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    kept = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(kept[0])
        torch.backends.cudnn.benchmark = kept[1]


class _Trainer:
    """The loop's state: what a checkpoint must hold and what a log line counts."""

    def __init__(self, method, loader, recipe: Fit, run: Run, progress: Style, validate):
        self.method, self.loader, self.recipe, self.run, self.validate = (
            method,
            loader,
            recipe,
            run,
            validate,
        )
        self.steps_per_epoch = len(loader.batch_sampler)
        if self.steps_per_epoch == 0 and recipe.epochs:
            raise ValueError(
                f"no whole batch: the data set is smaller than the global batch {recipe.batch}."
            )
        self.optimizer = make_optimizer(recipe, method)
        fp16 = recipe.precision == "fp16" and ranks.device().type == "cuda"
        self.scaler = torch.amp.GradScaler(ranks.device().type, enabled=fp16)
        self.step, self.seconds = 0, 0.0
        self.scale, self.best, self.bad_epochs, self.dropped = 1.0, math.inf, 0, 0
        self.pending: list[tuple[int, torch.Tensor, dict]] = []
        self.epoch_losses: list[float] = []
        self.wrapped = method
        if ranks.world() > 1:
            self.wrapped = DistributedDataParallel(method, broadcast_buffers=False)
        self.progress = None
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
                    f"{error}\n"
                    "Use another folder, or delete that checkpoint to start anew."
                ) from error
            if state["scaler"]:  # empty where it was off, as on a CPU
                self.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.scale, self.best, self.bad_epochs, self.dropped = state["plateau"]
            self.epoch_losses = state["epoch_losses"]
        ranks.barrier()  # nobody writes before all have read
        if ranks.rank() == 0:
            self.run.rewind(
                self.step if place else -1
            )  # the first validation comes before the first checkpoint

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
        for batch in self.loader:
            waited = time.perf_counter() - mark
            self.one_step(batch)
            now = time.perf_counter()
            self.seconds += now - mark
            self.window[1] += waited
            mark = now
            if self.step % self.recipe.log_every == 0:
                self.flush()
            # All ranks must stop at one step, within the launcher's hang_timeout, so they agree at
            # each.
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
        raise Interrupted(
            f"stopped by {name} at step {self.step}; saved. The same call resumes it."
        )

    def one_step(self, batch: dict) -> None:
        """One optimizer step on this rank's part of a global batch."""
        device = ranks.device()
        batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        recipe = self.recipe
        # A step's random state follows from seed, step and rank, so a resumed run draws what an
        # uninterrupted one does.
        torch.manual_seed((recipe.seed * 1_000_003 + self.step) * 1009 + ranks.rank())
        rate = learning_rate(recipe, self.step / self.steps_per_epoch, self.scale)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        losses, logged = [], []
        for part in _parts(batch, recipe.accumulate):
            with torch.autocast(
                device.type, _DTYPES[recipe.precision], enabled=recipe.precision != "fp32"
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
        """Check the losses since the last call, log their mean over steps and ranks, and move the
        bar."""
        if not self.pending:
            return
        for step, rows, numbers in self.pending:
            if not bool(torch.isfinite(numbers["loss"])):
                raise FloatingPointError(
                    f"the loss is {float(numbers['loss'])} at step {step} (epoch "
                    f"{step // self.steps_per_epoch}), rows "
                    f"{rows.tolist()}. Look at these rows; lower lr or use fp32. The last "
                    "checkpoint is whole."
                )
        names = list(self.pending[0][2])
        table = torch.tensor(
            [[float(numbers[name]) for name in names] for _, _, numbers in self.pending],
            dtype=torch.float32,
        )
        table = ranks.mean(table.to(ranks.device())).cpu()
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
            self.run.log("metrics", **{name: _plain(value) for name, value in line.items()})
            rest = {n: line[n] for n in [*means, "lr", "data_share"]}
            self.progress.show(
                self.step,
                words({"loss": means["loss"]}, ".3f"),
                f"{self.run.folder.name} epoch {line['epoch']:.2f}/{self.recipe.epochs} "
                f"step {self.step} {words(rest)}",
            )

    def monitor(self) -> dict:
        """Validate, log what was found, and go back to training."""
        if self.validate is None:
            return {}
        numbers = self.validate(self.step / self.steps_per_epoch)
        self.method.train()
        if ranks.rank() == 0:
            plain = {name: _plain(value) for name, value in numbers.items()}
            self.run.log("monitor", step=self.step, epoch=self.step / self.steps_per_epoch, **plain)
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
        """Lower the rate where the loss has stopped falling."""
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


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _parts(batch: dict, count: int):
    """A batch cut into `count` equal parts along its rows."""
    size = len(batch["row"]) // count
    for part in range(count):
        yield {name: value[part * size : (part + 1) * size] for name, value in batch.items()}


def _plain(value: float) -> float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
