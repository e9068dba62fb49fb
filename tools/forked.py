"""Runs scripts in processes that are forked from one that has imported the heavy packages.

    process = Nursery("torch", "lightning.pytorch").start("scripts/train.py", "seed=1", cwd=folder)
    process.wait()

Each script is a real process with its own memory, signals, files and exit code. Only the import of torch is skipped,
which takes longer than most of these scripts. The nursery has one thread and computes nothing, so forking it is safe.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


class Nursery:
    """A process that imports packages and then forks.

    Args:
        imports: names of packages.
    """

    def __init__(self, *imports: str) -> None:
        command = [sys.executable, __file__, *imports]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._written = tempfile.TemporaryDirectory(prefix="forked-")
        self._count = 0

    def ask(self, **request: Any) -> Any:
        """Sends a request to the process and returns its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, *command: Any, cwd: Path, env: dict[str, str] | None = None) -> Forked:
        """Runs a script, or `-c` and code, as `python` does.

        Args:
            command: the script and its arguments.
            cwd: its working directory.
            env: its environment; default: this process's.
        """
        self._count += 1
        out, err = (Path(self._written.name) / f"{self._count}.{name}" for name in ("out", "err"))
        out.touch(), err.touch()
        words = [str(word) for word in command]
        environment = dict(os.environ if env is None else env)
        pid = self.ask(command=words, cwd=str(cwd), env=environment, out=str(out), err=str(err))
        return Forked(self, words, pid, out, err)

    def close(self) -> None:
        """Ends the nursery."""
        self._process.communicate()
        self._written.cleanup()


class Forked:
    """The interface of `subprocess.Popen`, with the output in files.

    Attributes:
        args: the script and its arguments.
        pid: its process id.
        returncode: the exit code; None before `poll` or `wait` has found that it ended.
    """

    def __init__(self, nursery: Nursery, args: list[str], pid: int, out: Path, err: Path) -> None:
        self._nursery, self.args, self.pid = nursery, args, pid
        self._out, self._err = out, err
        self.returncode: int | None = None

    @property
    def output(self) -> str:
        """Its output on stdout so far."""
        return self._out.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        """Its output on stderr so far."""
        return self._err.read_text(encoding="utf-8")

    def poll(self) -> int | None:
        """The exit code, or None while it runs; negative for a signal."""
        if self.returncode is None:
            self.returncode = self._nursery.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the process to end; returns the exit code."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the process to end; returns its stdout and stderr."""
        self.wait(timeout)
        return self.output, self.errors

    def send_signal(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _become(request: dict[str, Any]) -> None:
    """Runs the script in the forked process, as a new Python would."""
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    script, *arguments = request["command"]
    code = 1
    try:
        if script == "-c":
            sys.argv, sys.path[0] = ["-c", *arguments[1:]], ""
            exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
        else:
            sys.argv, sys.path[0] = [script, *arguments], str(Path(script).parent)
            runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:  # noqa: BLE001
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        _leave(code)


def _leave(code: int) -> None:
    """Exits as Python does, with exit handlers, but without freeing the memory that it shares."""
    import atexit
    import threading

    try:
        threading._shutdown()  # noqa: SLF001  (waits for threads)
        atexit._run_exitfuncs()  # noqa: SLF001
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def serve(imports: list[str]) -> None:
    """Answers requests until stdin is closed."""
    for name in imports:
        importlib.import_module(name)
    requests, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in requests:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif not (answer := os.fork()):
            _become(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1:])
