"""TensorBoard and pages in a real Chromium."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Generator[Browser]:
    """Yields the system's Chromium, headless."""
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    assert program is not None, f"none of {', '.join(NAMES)} is installed"
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@contextmanager
def tensorboard(folder: Path, *flags: str, patience: float = 120) -> Generator[str]:
    """Starts TensorBoard on a free loopback port; yields its address once it has read the runs.

    Args:
        folder: contains runs.
        flags: further flags of TensorBoard.
        patience: seconds to wait for the runs.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    arguments = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", str(port), "--reload_interval", "1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *arguments, *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + patience
        while not _has_runs(address):
            assert server.poll() is None, "TensorBoard has stopped"
            assert time.monotonic() < deadline, "TensorBoard has not read the runs"
            time.sleep(0.3)
        yield address
    finally:
        server.terminate()
        server.wait()


def _has_runs(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/data/runs") as answer:
            return answer.read().strip() not in {b"", b"[]"}
    except OSError:
        return False


def open_tab(
    browser: Browser, address: str, tab: str, width: int = 1400, height: int = 1000, *, dark: bool = False
) -> Page:
    """Opens a tab of TensorBoard."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(f"{address}/?darkMode={str(dark).lower()}#{tab}")
    return page
