"""A run: build, train, test, close. And a trained run's model and data again, for evaluation."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.markup import escape

from rowgrad.errors import UserError, in_one_line
from rowgrad.folders import DRY, RunFolder
from rowgrad.results.run import Run
from rowgrad.results.sentences import describe_run, fallback_notice
from rowgrad.scenario.settings import STATE, ScenarioSettings
from rowgrad.scenario.zeros import PROBES, ZeroCause, find_zeros, zeros_text
from rowgrad.training.build import build, load_weights
from rowgrad.training.checkpoints import Checkpoints, newest_good
from rowgrad.training.settings import notes_on_rows, read_saved_settings, read_settings
from rowgrad.training.signals import StopOnSignal, is_interruption
from rowgrad.training.trainer import FiniteLoss, WholeSteps, lightning_trainer, make_trainer, prepare_libraries
from rowgrad.watch.bias import measured_bias
from rowgrad.watch.hparams import announce, hyperparameters, versions, write_outcome, zeros_facts
from rowgrad.watch.loggers import close_loggers, other_loggers, writers
from rowgrad.watch.recorder import recorder_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import lightning.pytorch as pl
    from omegaconf import DictConfig

    from rowgrad.data.datamodule import ImageData
    from rowgrad.model.classifier import RowClassifier
    from rowgrad.scenario.zeros import Zeros
    from rowgrad.training.settings import RunSettings

Summary = dict[str, Any]
# The scenario is probed with the images of one step, unless these are large.
MOST_NUMBERS, MIN_IMAGES = 2**20, 16
prepare_libraries()


def train_run(
    config: DictConfig, folder: RunFolder, *, settings: RunSettings | None = None, resume: bool = False
) -> Summary:
    """Trains, tests, and writes all files of a run.

    Args:
        config: the composed config, or the run's own if it is resumed.
        folder: the run's folder, which is made.
        settings: the config, if it was read already.
        resume: whether to go on from the newest good checkpoint in `folder`.

    Returns:
        The content of `summary.json`.

    Raises:
        UserError: a mistake in the config or the data, or another process that trains in the folder.
    """
    main = getattr(rank_zero_only, "rank", 0) == 0  # of several processes
    with folder.held() if main else nullcontext():
        training = Training(config, settings or read_settings(config), folder, resume=resume)
        try:
            training.open()
        except BaseException:
            close_loggers(training.trainer)  # W&B would give the numbers of this run to the next one
            raise
        training.fit()
        training.close()
    return training.summary


class Training:
    """A run while it trains. Making it writes nothing.

    Args:
        config: the content of `config.yaml`.
        settings: the same, read.
        folder: the run's folder.
        resume: whether the folder holds the run already.

    Attributes:
        data: the images.
        module: the model.
        trainer: Lightning's.
        expected: the zeros that the scenario will make, by cause.
        summary: the content of `summary.json`.
    """

    def __init__(self, config: DictConfig, settings: RunSettings, folder: RunFolder, *, resume: bool) -> None:
        self.config, self.folder, self.resume = config, folder, resume
        self.checkpoint = newest_good(folder) if resume else None
        self.data, self.module = build(settings, trained=self.checkpoint is not None)
        config.data.name = self.data.name  # the data set that is used, which evaluation and resuming must find again
        if settings.trainer.compile:
            self.module.network.compile(dynamic=False)  # in place: rows, cut and tap stay outside
        if self.checkpoint is not None:
            self.module.trained = load_weights(self.module, self.checkpoint.path)
        # Lightning adds no timer of its own for max_time if there is one.
        self.stop, self.timer = StopOnSignal(), WholeSteps(settings.trainer.others.get("max_time"))
        purge_step = (self.checkpoint.step if self.checkpoint else 0) if resume else None
        self.trainer = make_trainer(settings, folder, [self.timer, self.stop, FiniteLoss()], purge_step)
        self.notes = notes_on_rows(settings, self.data.dataset.shape.height)
        if (recorder := recorder_of(self.trainer)) is not None:
            recorder.check(self.module)
        self.console = Console(quiet=not self.trainer.is_global_zero, soft_wrap=True, emoji=False)
        self.expected = self._zeros_expected()
        self.summary: Summary = {"status": "failed"} | self._circumstances()

    def open(self) -> None:
        """Claims the folder, moves damaged checkpoints aside, and says what the run is."""
        if self.trainer.is_global_zero:
            self.folder.claim(self.config, resume=self.resume)
            if self.resume:
                self._set_aside_unfit()
            self._announce()
        notes = [f"note           {note}" for note in self.notes]
        scenario = f"scenario       {escape(self.module.sentence())}"
        self.console.print(*fallback_notice(self.data), scenario, *notes, sep="\n")

    def fit(self) -> None:
        """Trains, and tests unless a signal stopped the training; writes how it ended in any case."""
        checkpoint = self.checkpoint and self.checkpoint.path
        try:
            self.trainer.fit(self.module, datamodule=self.data, ckpt_path=checkpoint, weights_only=True)
            self.summary |= {"status": "interrupted"} if self.stop.stopped else self._measure()
        except BaseException as error:
            interrupted = not isinstance(error, Exception)
            self.summary |= {"status": "interrupted"} if interrupted else {"error": f"{type(error).__name__}: {error}"}
            self._report()
            if not is_interruption(error):
                raise
        else:
            self._report()

    def close(self) -> None:
        """Prints the result."""
        if self.trainer.is_global_zero:
            self.console.print(
                *fallback_notice(self.data), describe_run(Run(self.folder), self.module.scenario), sep="\n"
            )

    def _announce(self) -> None:
        """Writes the run's description to the loggers. A resumed run has it in TensorBoard already."""
        for writer in writers(self.trainer) if self.checkpoint is None else ():
            announce(writer, self.trainer, self.config, self.module, self.data, self.expected)
        for logger in other_loggers(self.trainer):
            try:
                logger.log_hyperparams(hyperparameters(self.config))
            except Exception as error:  # loggers of libraries raise anything
                raise UserError(f"logger: {type(logger).__name__} cannot begin: {in_one_line(error)}") from error

    def _report(self) -> None:
        """Writes how the run ended to TensorBoard and `summary.json`."""
        trainer, seconds = self.trainer, round(self.timer.time_elapsed("train"), 3)
        # A run that ended before Lightning loaded the checkpoint has no steps in the trainer.
        steps = trainer.global_step or (self.checkpoint.step if self.checkpoint else 0)
        self.summary |= {"train/steps": steps, "train/seconds": seconds}
        if trainer.is_global_zero:
            self.summary["cut_fraction"] = Run(self.folder).cut_fraction
            zeros = self._zeros_made(steps)
            self.summary["zeros_by"] = (zeros[0].cause if zeros else ZeroCause.NONE).value
            if zeros:
                self.summary["zeros_by_row"] = zeros_text(zeros, self.data.dataset.shape.height)
            self.summary |= measured_bias(trainer)
            for writer in writers(trainer):
                write_outcome(writer, self.summary, steps, zeros_facts(zeros, self.module.scenario))
            close_loggers(trainer)
            self.folder.write_summary(self.summary)  # last: a run whose status is done has all its files

    def _set_aside_unfit(self) -> None:
        """Moves damaged checkpoints aside, and says from where the run goes on."""
        self.folder.remove_partial_files()
        if self.checkpoint is None:  # the run begins again; TensorBoard would show the old texts too
            for file in [*self.folder.events.glob("events.out.tfevents.*"), self.folder.norms_file]:
                file.unlink(missing_ok=True)
        for path, reason in self.checkpoint.unfit.items() if self.checkpoint else ():
            path.replace(path.with_suffix(".damaged"))
            words = f"[bold red]{escape(f'{path} {reason}')}[/]"
            self.console.print(f"{words} and was set aside; going on from the one before.")
        begin = f"step {self.checkpoint.step}, {self.checkpoint.path.name}" if self.checkpoint else "the beginning"
        self.console.print(f"resuming from {begin}{'' if self.checkpoint else ': no checkpoint was written'}")

    def _circumstances(self) -> Summary:
        """The facts of a run that are known before it trains: scenario, data, seed, device and versions."""
        device = self.trainer.strategy.root_device
        return {
            "scenario": self.module.scenario.name,
            "corruption": self.module.corruption.name,
            "data": self.data.name,
            **({"data_missing": self.data.missing} if self.data.missing else {}),
            "seed": self.module.seed,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            **versions(),
        }

    def _zeros_expected(self, steps: int | None = None) -> list[Zeros]:
        """The zeros that the scenario makes in the first `steps` steps, by cause."""
        scenario = self.module.scenario
        ends = [end for end in (scenario.to_step, steps, scenario.from_step + PROBES) if end is not None]
        if scenario.route == STATE and scenario.state != "all":  # gradient goes through the other part
            return []
        due = range(scenario.from_step, min(ends))
        return self._find_zeros(dict.fromkeys(range(self.data.dataset.shape.height), due))

    def _zeros_made(self, steps: int) -> list[Zeros]:
        """The recorded zeros by cause; if norms were not recorded, those that the scenario makes in `steps` steps."""
        run = Run(self.folder)
        if run.cut is None:
            return self._zeros_expected(steps)
        at_steps = {row: run.steps[zero].tolist() for row, zero in enumerate(run.cut.unbind(1)) if zero.any()}
        return self._find_zeros(at_steps)

    def _find_zeros(self, steps: Mapping[int, Sequence[int]]) -> list[Zeros]:
        """Finds the causes of rows' zeros at these steps, on a batch of the run's size and images."""
        shape, module = self.data.dataset.shape, self.module
        most = max(MOST_NUMBERS // (shape.channels * shape.height * shape.width), MIN_IMAGES)
        whole = self.data.settings.batch_size * self.trainer.accumulate_grad_batches * self.trainer.world_size
        with torch.no_grad():
            images = self.data.examples(min(whole, most)).to(module.theta.device)
            images = (module.corruption(images) + module.theta).float().cpu()
        return find_zeros(module.scenario, images, module.seed, steps)

    def _measure(self) -> Summary:
        """Validation and test metrics of the last weights."""
        trainer, checkpoints = self.trainer, self.trainer.checkpoint_callback
        # The step that Lightning logs. It is one too low after a checkpoint within an epoch, until a step is trained.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step  # noqa: SLF001
        known = isinstance(checkpoints, Checkpoints) and checkpoints.validated_step == trainer.global_step
        if not known:  # training ended within an epoch, or without the callback
            trainer.validate(self.module, datamodule=self.data, verbose=False)
        validation = checkpoints.validation if isinstance(checkpoints, Checkpoints) else _metrics(trainer)
        trainer.test(self.module, datamodule=self.data, verbose=False)
        if batches := int(getattr(trainer, "fast_dev_run", 0)):
            return {"status": DRY, "batches": batches}
        return validation | _metrics(trainer) | {"status": "done"}


def load_run(
    path: Path, scenario: DictConfig | None = None, trusted: Sequence[str] = ()
) -> tuple[RunSettings, ImageData, RowClassifier]:
    """Settings, data and trained model of a run.

    Args:
        path: the run's folder, for its last weights, or one of its checkpoints.
        scenario: replaces the run's own scenario.
        trusted: packages that its config may name besides the list in `build.py`.

    Raises:
        UserError: there is no run, or its checkpoint does not fit.
    """
    folder, checkpoint = RunFolder.of_checkpoint(path)
    if not checkpoint.is_file():
        raise UserError(f"{path} is not a run's folder or checkpoint: there is no {checkpoint}.")
    settings = read_saved_settings(folder.read_config(), trusted)
    if scenario is not None:
        settings = replace(settings, scenario=ScenarioSettings.read(scenario))
    data, module = build(settings, trained=True)
    module.trained = load_weights(module, checkpoint)
    return settings, data, module


def evaluate(settings: RunSettings, data: ImageData, module: RowClassifier) -> Summary:
    """Test metrics of a model, by the names in `summary.json`."""
    keys = ("accelerator", "devices", "precision", "deterministic", "enable_model_summary", "limit_test_batches")
    arguments = {key: value for key, value in settings.trainer.arguments().items() if key in keys}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning_trainer(settings, arguments, **quiet)
    trainer.test(module, datamodule=data, verbose=False)
    return _metrics(trainer)


def _metrics(trainer: pl.Trainer) -> Summary:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
