"""What comes over a process from outside: signals, and a reader of its output that goes away."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rowgrad.errors import need_pipeline, tell_mistakes_plainly

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

INTERRUPTED = 130
# Ctrl-C, what batch systems send before they take the machine away (SIGUSR2 is submitit's), and a closed terminal.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
TOLD = signal.SIGURG  # how a sweep tells its workers: who does not listen yet is not ended by it
WARNINGS = {"SIGUSR1", "SIGUSR2", "SIGHUP", TOLD.name}  # after which SIGTERM means the same
LEAVING = "ending as soon as nothing is lost"


class Interrupted(BaseException):
    """A signal came; names it. No `Exception`, so that nobody takes it for a failure."""


class Signals:
    """Signals are noted, and looked at where nothing is lost: `check()`. So they end no file, import or step half-way.

    A second one leaves at once. What was ignored when the process began stays ignored: nohup.

    Attributes:
        received: the name of the signal that came, or None.
        doing: what is said to whoever sends one.
        stops: whether training stops because of it, and not by itself.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.stops = False
        self.doing = LEAVING
        self._before: dict[int, object] = {}
        self._raises = False

    @property
    def listens(self) -> bool:
        """Whether signals come here."""
        return bool(self._before)

    def listen(self, *more: int) -> None:
        """Takes the signals, and some more, from whoever has them."""
        found = {number: signal.getsignal(number) for number in (*STOPPING, *more) if number not in self._before}
        self._before |= {number: handler for number, handler in found.items() if handler != signal.SIG_IGN}
        self.take_back()

    def take_back(self) -> None:
        """Takes the signals that were taken before back from whoever took them since."""
        if threading.current_thread() is threading.main_thread():  # Python delivers signals there alone
            for number in self._before:
                signal.signal(number, self._receive)

    @contextmanager
    def listening(self) -> Generator[None]:
        """Inside, signals come here. Does nothing where they do already."""
        if self.listens or threading.current_thread() is not threading.main_thread():
            yield
            return
        self.listen()
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)  # ty: ignore[invalid-argument-type]
            self._before, self.received, self.stops = {}, None, False

    @contextmanager
    def raising(self) -> Generator[None]:
        """Inside, a signal is raised as soon as it comes: for what may take long and leaves nothing half done."""
        self.check()
        before, self._raises = self._raises, self.listens
        try:
            yield
        finally:
            self._raises = before

    def check(self) -> None:
        """Raises Interrupted if a signal came."""
        if self.received is not None:
            raise Interrupted(self.received)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            # A closed terminal sends SIGHUP twice. A batch system warns first, and then means the same.
            if number in {signal.SIGHUP, TOLD} or (number == signal.SIGTERM and self.received in WARNINGS):
                return
            os._exit(128 + number)  # files are whole at any moment, so there is nothing to tidy up
        self.received = signal.Signals(number).name
        say(f"\n{self.received}: {self.doing}.")
        if self._raises:
            self.check()


SIGNALS = Signals()


def say(words: str) -> None:
    """A line on stderr, from wherever a signal found the process."""
    try:
        os.write(2, f"{words}\n".encode())
    except OSError:  # nobody is there
        return


@contextmanager
def commanded(*, at_once: bool = False) -> Generator[None]:
    """Around a command: a signal ends it with one line and exit code 130, and it outlives the reader of its output.

    Args:
        at_once: a signal ends it wherever it is, for commands that have nothing to lose.
    """
    outlive_readers()
    SIGNALS.listen()
    try:
        if at_once:
            with SIGNALS.raising():
                yield
        else:
            yield
        SIGNALS.check()
    except Interrupted:
        sys.exit(INTERRUPTED)


def run_script(action: str, main: Callable[[], None]) -> None:
    """Runs a script that has nothing to lose: a mistake, or packages that are missing, are one plain line.

    Args:
        action: what it does, as in "evaluate".
        main: does it; there, and not before, it imports what the extra `pipeline` installs.
    """
    tell_mistakes_plainly(action)
    need_pipeline()
    with commanded(at_once=True):
        main()


class _Outliving(io.FileIO):
    """A file that takes what nobody reads any more."""

    def write(self, data: bytes, /) -> int | None:  # ty: ignore[incompatible-method-override]
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.EIO}:  # a pipe, a terminal
                raise
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(data)


def outlive_readers() -> None:
    """Makes stdout and stderr go on in silence when their reader is gone, as in `| head -1`: results are in files."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            raw = io.BufferedWriter(_Outliving(stream.fileno(), "wb", closefd=False))  # ty: ignore[invalid-argument-type]
            text = io.TextIOWrapper(
                raw, encoding=stream.encoding, errors=stream.errors, line_buffering=stream.line_buffering
            )
            setattr(sys, name, text)
