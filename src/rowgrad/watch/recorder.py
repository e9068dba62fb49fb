"""The recorder of a training loop: a Lightning callback, and the same for a loop of one's own."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from rowgrad.cuts.lightning import TrainingStep
from rowgrad.cuts.watching import is_watched
from rowgrad.watch.csv_file import NormsFile, open_norms_file
from rowgrad.watch.loggers import LIVE, Log, add_facts, save_loggers, writers
from rowgrad.watch.quantities import SELECTED, Quantity
from rowgrad.watch.recording import Recording
from rowgrad.watch.settings import RecorderSettings
from rowgrad.watch.stream import is_first_rank
from rowgrad.watch.zero_rows import find_makers, unexplained

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn
    from torch.optim import Optimizer

    from rowgrad.tap import RowTap

RECORDED = "recorded"  # the key in a checkpoint of what the CSV files contain
Recorded = tuple[Tensor, dict[str, Tensor]]
EMPTY = torch.zeros(0, dtype=torch.long)


class RowGradientRecorder(pl.Callback):
    """Records the norm of each row's gradient at every optimizer step, for any LightningModule with taps.

    Gradients stay on the device, and many steps are written at once. Norms are of the gradient of the mean loss over
    the whole optimizer step (all micro-batches and ranks), without the loss scale of mixed precision, before clipping.
    Zeros are exact; other norms have the precision of training. What is not known, as of a row that a step does not
    have, is empty in the CSV and NaN elsewhere. A step that the scaler skips is not recorded. With several optimizers
    (manual optimization), each has its own record: of the backward passes that its weights' gradients contain.

    Logs, one event a step, to TensorBoard, to any other logger, and to `row_gradients.csv`:
        * `<tap>_grad_norm/row_00` ... of each tap, by its attribute's name: ‖∂L/∂x_r‖, in loss units per unit of x
        * `<quantity>/row_00` ... of each further quantity; of modules with θ `row_update_norm`, ‖θ_r(t+1) − θ_r(t)‖₂
        * `grad_flow/cut_fraction` of two taps, before and after a cut: the share of the squared gradient after it in
          rows that none reached before it
        * if the module's `watched` names them, outputs of its training step (`train/loss`, `train/acc`) and means over
          the rows that a scenario selects and over the others (`grad_means/...`)

    Step t, counted from 0, is the one that turns the weights of t into those of t+1. Loggers show it at their own step:
    with manual optimization, that counts batches.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RowGradientRecorder()], logger=False)  # for a module that has a RowTap
        >>> recorder = RowGradientRecorder(modules="backbone.conv1", every_n_steps=10)  # for one that has none

    Args:
        every_n_steps: optimizer steps from one record to the next.
        flush_every_n_steps: recorded steps that are written at once; fewer at first, so that charts fill soon.
        quantities: which norms, by name, or quantities of your own; None for all: each tap's, and for modules with θ
            the norm of its gradient and of its updates.
        modules: submodules that are tapped from outside: a name, names, or for each name what is tapped, as in
            `{"decoder": {"argument": "memory"}, "cell": {"output": True, "collect": True}}`. The keys are those of
            `rowgrad.attach.Place`; by default it is the input.
        pairs: names of two taps each, before and after a cut.
        layers: whether the norm of each layer's parameters' gradients is recorded too, without any tap, and of all
            together: `layer_grad_norm/<layer>`, `layer_grad_norm/total`. A number joins layers by the first parts of
            their names: with 1, `encoder.0.linear` is `encoder`.
        update_ratios: whether `layer_update_ratio/<layer>` is recorded with them, ‖Δw‖ / ‖w‖. It copies the weights.
        bins: the most norms of a tap at a step; those of more rows are joined, as the root of their sum of squares.
        dirpath: the folder of `row_gradients.csv`; by default the logger's, else the trainer's `default_root_dir`.

    Raises:
        UserError: a value that is not accepted; it names the key. When training starts: nothing to record, or an
            unknown name.
    """

    def __init__(
        self,
        every_n_steps: int = RecorderSettings.every_n_steps,
        flush_every_n_steps: int = RecorderSettings.flush_every_n_steps,
        quantities: Sequence[str | Quantity] | None = RecorderSettings.quantities,
        modules: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
        pairs: Sequence[Sequence[str]] = (),
        layers: bool | int = RecorderSettings.layers,
        update_ratios: bool = RecorderSettings.update_ratios,
        bins: int | None = RecorderSettings.bins,
        dirpath: Path | None = None,
    ) -> None:
        self.settings = RecorderSettings(
            every_n_steps=every_n_steps,
            flush_every_n_steps=flush_every_n_steps,
            quantities=quantities,
            modules=modules,  # ty: ignore[invalid-argument-type]  (its reader takes names, too)
            pairs=pairs,
            layers=layers,
            update_ratios=update_ratios,
            bins=bins,
        )
        self.dirpath = dirpath
        self.keeps_history = False  # whether `recorded` has quantities that are in no file, too
        self.recording: Recording | None = None
        self._earlier: dict[str, Any] = {}  # what the checkpoint knows of the files
        self._counts: list[int] = []
        self._outputs: list[Sequence[Tensor]] = []
        self._announced: Optimizer | None = None  # whose step Lightning has told of
        self._unseen: Optimizer | None = None  # whose step it has not
        self._is_told = False

    @property
    def taps(self) -> dict[str, RowTap]:
        """The taps by their names, during training."""
        return {} if self.recording is None else self.recording.taps

    @property
    def quantities(self) -> list[Quantity]:
        """What is recorded, after `check` or the start of training."""
        return [] if self.recording is None else self.recording.quantities

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the taps, and attaches those of `modules`."""
        self.recording = Recording(pl_module, self.settings, rank_zero_info, rank_zero_warn)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Reads what the checkpoint knows of the files."""
        self._earlier = checkpoint.get(RECORDED, {})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the files."""
        assert self.recording is not None
        count = max(len(trainer.optimizers), 1)
        folder = Path(self.dirpath or trainer.log_dir or trainer.default_root_dir)
        earlier = self._earlier if trainer.global_step > 0 else {}

        def file_of(name: str) -> NormsFile:
            names = self.recording.names if self.recording else {}
            return open_norms_file(folder, name, earlier, names, writes=trainer.is_global_zero)

        self.recording.follow(trainer.optimizers, getattr(trainer.precision_plugin, "scaler", None))
        self.recording.open(
            file_of,
            Log.of(trainer),
            counts=self._counts if len(self._counts) == count else [trainer.global_step] * count,
            keeps_history=self.keeps_history and trainer.is_global_zero,
        )
        self._step = trainer.global_step
        self._counts, self._outputs, self._earlier = [], [], {}
        self._announced = self._unseen = None
        self._hooks = [
            register_optimizer_step_pre_hook(self._before_any_step),
            register_optimizer_step_post_hook(self._after_any_step),
        ]
        self._trainer = trainer
        if type(trainer.strategy.launcher).__name__ == "_MultiProcessingLauncher":  # ddp_spawn, ddp_notebook
            path = self.recording.streams[0].file.path
            rank_zero_warn(f"training runs in processes of its own: recorder.recorded() will be empty. Read {path}.")
        watched = self.recording.watched
        selected = [row for row, is_selected in enumerate(watched.selected) if is_selected]
        for writer in writers(trainer) if trainer.global_step == 0 else ():
            # Written even if empty: with such a record, TensorBoard shows the tab Rows from the start.
            add_facts(writer, SELECTED, ({"selected": selected} if selected else {}) | self.recording.facts)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Names the line that makes the zeros of a tap's rows, if they got nothing in all of the first steps."""
        assert self.recording is not None
        rows = self.recording.take_zero_rows()
        if rows and trainer.world_size > 1:  # this rank alone knows of them, and a step may need the others
            for name, zero in rows.items():
                rank_zero_warn(unexplained(name, self.taps[name], zero))
        elif rows:
            step = TrainingStep(pl_module, batch, batch_idx)
            for sentence in find_makers(step, {name: self.taps[name] for name in rows}, rows):
                rank_zero_warn(sentence)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Takes the step's gradients: after unscaling, before clipping."""
        self._announced = optimizer
        number = next((place for place, known in enumerate(trainer.optimizers) if known is optimizer), 0)
        self._begin(number, trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collects outputs over micro-batches and, after the optimizer's step, completes the record."""
        assert self.recording is not None
        self._announced = None
        if names := self.recording.watched.outputs:
            self._outputs.append([outputs[name] for name in names])
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        self.recording.after_step(self._summed_outputs)
        self._outputs = []

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Writes all recorded steps, so that the files on the disk have each step before the checkpoint."""
        known = {} if self.recording is None else self.recording.known()
        checkpoint[RECORDED] = checkpoint.get(RECORDED, {}) | known  # of several recorders
        save_loggers(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the remaining steps and closes the files."""
        if self.recording is not None:
            self.recording.after_step()
            self.recording.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes every step that was completed before the failure."""
        if "is a view and is being modified inplace" in str(exception):  # torch.compile says no more
            rank_zero_warn(
                "a compiled module changes a tapped tensor in place: write inplace=False, or tap what follows."
            )
        if self.recording is not None:
            self.recording.close(alone=True)
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leaves the module as it was before training."""
        for hook in getattr(self, "_hooks", ()):
            hook.remove()
        self._hooks: list[Any] = []
        if self.recording is not None:
            self.recording.leave()

    def state_dict(self) -> dict[str, Any]:
        """The number of steps of each optimizer, if there are several."""
        counts = [] if self.recording is None else [stream.count for stream in self.recording.streams]
        return {"counts": counts} if len(counts) > 1 else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self._counts = state_dict["counts"]

    def flush(self) -> None:
        """Writes the recorded steps to the CSV file and the loggers. All ranks must call this."""
        if self.recording is not None:
            self.recording.flush()

    def recorded(self, optimizer: int = 0) -> Recorded:
        """All steps that were flushed, also those from before a resume.

        Args:
            optimizer: the index of the optimizer.

        Returns:
            Optimizer steps (T,) and norms (T, H) by the names of their quantities, as `row_gradients.csv` has them, NaN
            where nothing was recorded; with `keeps_history` those of all quantities.
        """
        streams = [] if self.recording is None else self.recording.streams
        return streams[optimizer].recorded() if streams else (EMPTY, {})

    def check(self, module: pl.LightningModule) -> None:
        """Checks before training that the module has everything that is to be recorded.

        Raises:
            UserError: it does not.
        """
        self.recording = Recording(module, self.settings)
        self.recording.leave()

    def _begin(self, number: int, step: int) -> None:
        assert self.recording is not None
        trainer, shown = self._trainer, step
        if not trainer.lightning_module.automatic_optimization:  # self.log counts batches there
            shown = trainer.fit_loop.epoch_loop._batches_that_stepped  # noqa: SLF001
        self.recording.before_step(number, step, shown)

    def _before_any_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Records a step of which Lightning does not tell: of an optimizer that is called without its wrapper."""
        assert self.recording is not None
        has_closure = bool(args[1:]) or kwargs.get("closure") is not None  # so does Lightning call it
        if self._announced is not None or has_closure or is_watched():
            return
        number = _number_of(optimizer, [known.param_groups for known in self._trainer.optimizers])
        if number is not None:
            self._unseen = optimizer
            self._begin(number, max(self._trainer.global_step, self.recording.streams[number].count))

    def _after_any_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if optimizer is self._announced:
            self._announced = None
        if optimizer is not self._unseen:
            return
        self._unseen = None
        assert self.recording is not None
        self.recording.after_step(list)
        if not self._is_told:
            self._is_told = True
            rank_zero_warn(
                f"{type(optimizer).__name__}.step() is called without Lightning's wrapper, so trainer.global_step does"
                " not count its steps. They are recorded, and numbered from 0."
            )

    def _summed_outputs(self) -> Sequence[Tensor]:
        """Outputs of the whole step. Lightning has already divided the loss by the number of micro-batches."""
        assert self.recording is not None
        many = self._trainer.accumulate_grad_batches
        if len(self._outputs) == 1 and many == 1:
            return self._outputs[0]
        names = self.recording.watched.outputs
        columns = zip(*self._outputs, strict=True)
        return [sum(parts) * (1 if name == "loss" else 1 / many) for name, parts in zip(names, columns, strict=False)]


class Recorder:
    """Records the norm of each row's gradient at every optimizer step, in a training loop of one's own.

    It writes what `RowGradientRecorder` writes: `row_gradients.csv` and TensorBoard's event file, in one folder.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(RowTap(), nn.Linear(4, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with Recorder(model, "runs/mine") as recorder:
        ...     for _ in range(3):
        ...         model(torch.ones(8, 6, 4)).square().mean().backward()  # (B, T, D)
        ...         optimizer.step()
        ...         recorder.step()
        ...         optimizer.zero_grad()
        >>> recorder.recorded()[1]["0_grad_norm"].shape
        torch.Size([3, 6])

    Args:
        module: has taps, or submodules that `modules` names.
        folder: of the files. To go on with a file, call `load_state_dict` before the first step.
        optimizers: needed if there are several, or if one does not have all parameters of the module.
        scaler: of mixed precision in 16 bits; its factor is divided out, and steps that it skips are not recorded.
        settings: as of `RowGradientRecorder`: `every_n_steps`, `flush_every_n_steps`, `quantities`, `modules`, `pairs`,
            `bins`.

    Raises:
        UserError: a value that is not accepted, or nothing to record.
    """

    def __init__(
        self,
        module: nn.Module,
        folder: str | Path,
        *,
        optimizers: Optimizer | Sequence[Optimizer] = (),
        scaler: torch.amp.GradScaler | None = None,
        **settings: Any,
    ) -> None:
        self.folder = Path(folder)
        several = list(optimizers) if isinstance(optimizers, list | tuple) else [optimizers]
        self._is_open = False
        self._state: Mapping[str, Any] = {"counts": [0] * max(len(several), 1), "files": {}, "steps": 0}
        tell = logging.getLogger("rowgrad").info
        self.recording = Recording(module, RecorderSettings(**settings), tell, _warn)
        self.recording.follow(several, scaler)
        self._several, self._hooks = several, []
        if self.recording.needs_state_before:
            self._hooks.append(register_optimizer_step_pre_hook(self._before_any_step))

    def step(self, optimizer: int = 0) -> None:
        """Records a step that an optimizer has just done. Call it before gradients are set to zero.

        Args:
            optimizer: its index, if there are several.
        """
        self._open()
        self.recording.before_step(optimizer, self._steps, self._steps)
        self.recording.after_step()
        self._steps += 1
        for name, rows in self.recording.take_zero_rows().items():
            _warn(unexplained(name, self.recording.taps[name], rows))

    def recorded(self, optimizer: int = 0) -> Recorded:
        """All steps, also those from before a resume.

        Args:
            optimizer: the index of the optimizer.

        Returns:
            Optimizer steps (T,) and norms (T, H) by the names of their quantities, NaN where nothing was recorded.
        """
        if not self._is_open:
            return EMPTY, {}
        self.recording.flush()
        return self.recording.streams[optimizer].recorded()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the number of steps, and what the files contain. All steps are written first."""
        if not self._is_open:
            return dict(self._state)
        counts = [stream.count for stream in self.recording.streams]
        return {"counts": counts, "files": self.recording.known(), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on after `state`, with its own file unless another run has it. Call it before the first step."""
        self._state = state

    def close(self) -> None:
        """Writes the remaining steps, closes the files, and leaves the module as it was."""
        for hook in self._hooks:
            hook.remove()
        if self._is_open:
            self.recording.close()
            for writer in self.recording.log.writers:
                writer.close()
        self.recording.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _before_any_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Takes the weights before they move. `step` then completes the record."""
        if args[1:] or kwargs.get("closure") is not None or is_watched():  # the gradient is computed inside
            return
        known = [one.param_groups for one in self._several] or [[{"params": list(self.recording.module.parameters())}]]
        number = _number_of(optimizer, known)
        if number is not None:
            self._open()
            self.recording.before_step(number, self._steps, self._steps)

    def _open(self) -> None:
        if self._is_open:
            return
        from torch.utils.tensorboard.writer import SummaryWriter  # late: it takes a second to import

        self._is_open, self._steps = True, self._state["steps"]
        files, writes = self._state["files"], is_first_rank()
        events = [SummaryWriter(str(self.folder), purge_step=self._steps or None, **LIVE)] if writes else []
        self.recording.open(
            lambda name: open_norms_file(self.folder, name, files, self.recording.names, writes=writes),
            Log(events),
            counts=self._state["counts"],
        )
        for writer in events:
            add_facts(writer, SELECTED, self.recording.facts)


def _number_of(optimizer: Optimizer, known: Sequence[Sequence[dict[str, Any]]]) -> int | None:
    """The first of the known optimizers, by their parameter groups, that shares a parameter with this one."""
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    shares = (any(id(parameter) in own for group in groups for parameter in group["params"]) for groups in known)
    return next((number for number, is_one in enumerate(shares) if is_one), None)


def _warn(words: str) -> None:
    warnings.warn(words, stacklevel=2)


def recorder_of(trainer: pl.Trainer) -> RowGradientRecorder | None:
    """The recorder among a trainer's callbacks."""
    return next((c for c in getattr(trainer, "callbacks", []) if isinstance(c, RowGradientRecorder)), None)
