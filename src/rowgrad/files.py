"""Files that are whole or not there, and paths as one would type them."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is whole or as it was before."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def shown(path: Path) -> Path:
    """The path as one would type it here."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
