"""The pictures in README and docs, from real runs on MNIST: `make pictures`.

Trains the four scenarios and three more runs with seed 0 into FOLDER (those that are not there), writes the report, and
photographs TensorBoard and the report.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from browser import chromium, open_tab, tensorboard
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PROJECT = Path(__file__).resolve().parents[1]
IMAGES = PROJECT / "docs" / "images"
SCENARIOS = ("baseline", "modify", "visualize", "augment")
# Runs of which the heatmaps alone are shown, as they stand in TensorBoard.
ALONE = {
    "detach_is_not_freeze": ("experiment=detach_is_not_freeze", "optimizer.rows_weight_decay=0.1"),
    "gru": ("model=gru", "scenario=baseline"),
    "truncate": ("model=gru", "scenario=truncate"),
}
TABS = [
    ("augment", "custom_scalars", (1230, 1080)),
    ("augment", "images", (1230, 760)),
    (".", "hparams", (1600, 420)),
]


def script(name: str, *arguments: object) -> None:
    """Runs one of the project's scripts."""
    subprocess.run([sys.executable, PROJECT / "scripts" / name, *map(str, arguments)], check=True)


def shrink(path: Path, colours: int = 256) -> None:
    """Makes a screenshot a small file."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def main() -> None:
    """Trains what is missing and takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, words in (dict.fromkeys(SCENARIOS, ()) | ALONE).items():
        chosen = words or (f"scenario={name}",)
        if not (folder / name / "summary.json").exists():
            script("train.py", *chosen, "seed=0", "data.fallback=null", f"hydra.run.dir={folder / name}")
    for name in ALONE:
        events = EventAccumulator(str(folder / name / "tensorboard")).Reload()
        picture = events.Images("pictures/1_row_gradients")[-1].encoded_image_string
        (IMAGES / f"{name}.png").write_bytes(picture)
    script("report.py", folder / "gru", folder / "truncate", "--out", folder / "sequences")
    shutil.copyfile(folder / "sequences" / "figures" / "heatmaps.png", IMAGES / "sequences.png")
    script("report.py", *(folder / name for name in SCENARIOS))
    with chromium() as browser:
        for shown, tab, size in TABS:
            with tensorboard(folder / shown) as address:
                page = open_tab(browser, address, tab, *size)
                page.wait_for_timeout(15_000)  # charts are drawn one after the other
                page.screenshot(path=IMAGES / f"{tab}.png")
        page = browser.new_page(viewport={"width": 1040, "height": 1300})
        page.goto((folder / "report" / "report.html").absolute().as_uri())
        for number, name in enumerate(("heatmaps", "row_profiles")):
            page.locator("figure").nth(number).screenshot(path=IMAGES / f"{name}.png")
    for path in IMAGES.glob("*.png"):
        shrink(path)
        print(path.relative_to(PROJECT), f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
