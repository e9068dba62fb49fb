"""The commands and examples of README and docs work as printed."""

import re
import shlex
import shutil
import subprocess

import pytest
import torch
from conftest import PROJECT, done

README = (PROJECT / "README.md").read_text()
PAGES = "\n".join([README, *(path.read_text() for path in sorted((PROJECT / "docs").glob("*.md")))])
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGES, re.DOTALL)
FOUND = [line.partition(" #")[0] for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line]
FOUND += re.findall(r"`(python scripts/[^`]*)`", PAGES)
COMMANDS = list(dict.fromkeys(" ".join(line.split()) for line in FOUND))
# Sweeps, and training on several processes.
SLOW = re.compile(r"train\.py -m |trainer=ddp")
SCRIPTS = [
    pytest.param(line, marks=[pytest.mark.slow] if SLOW.search(line) else [])
    for line in COMMANDS
    if line.startswith("python scripts/")
]


def shortened(words):
    """The same command on digits for two steps, without pictures, and with one or two seeds."""
    if words[0] != "scripts/train.py" or {"--help", "--config-name=config"} & set(words) or "resume=RUN" in words:
        return words
    extras = ["data=digits", "trainer.max_steps=2", "callbacks.pictures=null"]
    if "-m" in words and not any(word.startswith("seed=") for word in words):
        extras.append("seed=0")
    words = [re.sub(r"^(seed=\d+,\d+),.*", r"\1", word) for word in words]
    return [*words, *(extra for extra in extras if extra not in words)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme") / "run"
    words = shortened(["scripts/train.py", f"hydra.run.dir={folder}"])
    done(PROJECT / words[0], *words[1:], cwd=folder.parent)
    return folder


def test_the_readme_shows_commands():
    assert len([line for line in COMMANDS if line in README]) > 8


@pytest.mark.parametrize("line", SCRIPTS)
def test_every_python_command_of_the_readme_works(line, tmp_path, run_folder):
    shutil.copytree(run_folder, tmp_path / "RUN")
    shutil.copytree(run_folder, tmp_path / "lightning_logs" / "version_0")
    line = line.replace("lightning_logs/*", "lightning_logs/version_0")  # which a shell does
    if "logs/repair/network" not in line:  # made by another command, which the page shows before those that need it
        shutil.copytree(run_folder, tmp_path / "logs" / "repair" / "network")
    _, *words = shlex.split(line.replace("$PWD", str(tmp_path)).replace("RUN...", "RUN"))
    script, *arguments = shortened(words)
    done(PROJECT / script, *arguments, cwd=tmp_path)


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith("make ")])
def test_every_make_target_of_the_readme_exists(line):
    result = subprocess.run([*shlex.split(line), "--dry-run"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    arguments = re.findall(r'ARGS="(.*)"', line)
    if line.startswith("make train"):
        assert f".venv/bin/python scripts/train.py {' '.join(arguments)}".strip() in result.stdout


def test_the_four_lines_of_the_readme_cut_what_they_say():
    (code,) = [text for kind, text in BLOCKS if kind == "python" and "requires_grad=True)  # θ" in text]
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    names = {"torch": torch, "images": torch.randn(4, 28, 28), "network": network, "loss": lambda x: x.square().sum()}
    exec(code, names)
    gradient = names["rows"].grad
    assert not gradient[:14].any()
    assert (gradient[14:].norm(dim=1) > 0).all()


def test_linked_pictures_and_pages_exist_and_pictures_are_small():
    pages = (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md"))
    found = [(page, link) for page in pages for link in re.findall(r"\]\(([^):]*)\)", page.read_text())]
    links = {page.parent / link for page, link in found if not link.startswith("#")}
    for page, link in found:
        assert not link.startswith("#") or f'<a id="{link[1:]}"></a>' in page.read_text(), link
    pictures = {link.resolve() for link in links if link.suffix == ".png"}
    assert len(pictures) > 3
    assert all(link.exists() for link in links)
    assert all(picture.stat().st_size < 300_000 for picture in pictures)
