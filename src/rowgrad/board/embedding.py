"""The tab *Rows* as one page: its modules as one script, and the runs' numbers inside.

A number is rounded to four significant digits; zeros, infinities and missing values are exact. It is stored as a code:
0 for 0.0, 1 for NaN, 2 for infinity, and then 9,000 codes a power of ten. Codes go byte by byte through deflate to base
85, which takes about 14 bits a number, and half of that where two quantities are equal. `page/embedded.js` reads them.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rowgrad.board.reading import Numbers, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = Path(__file__).with_name("page")
DIGITS = 4
LEAST = 10 ** (DIGITS - 1)  # of the integers of four digits
PER_DECADE = 9 * LEAST
NAMED = 3  # codes of 0, NaN and infinity
# Base 85 (RFC 1924) without the characters that mean something in a page.
SAFE = bytes.maketrans(b"&<>`", b",./:")

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) (\w+))", re.MULTILINE)


def script() -> str:
    """All modules of the page as one script, which shows the page: each is a function whose exports are `$name`."""
    texts = {file.stem: file.read_text(encoding="utf-8") for file in PAGE.glob("*.js")}
    needs = {name: {match[2] for match in _IMPORT.finditer(text)} for name, text in texts.items()}
    modules = [_as_function(name, texts[name]) for name in TopologicalSorter(needs).static_order()]
    return "\n".join([*modules, "$index.render();"])


def style() -> str:
    """The page's style sheet."""
    return (PAGE / "style.css").read_text(encoding="utf-8")


def _as_function(name: str, text: str) -> str:
    exports = ", ".join(_EXPORT.findall(text))
    body = _EXPORT.sub("", _IMPORT.sub(lambda m: f"const {{{m[1].replace(' as ', ': ')}}} = ${m[2]};\n", text))
    return f"const ${name} = (() => {{\n{body}return {{ {exports} }};\n}})();"


def as_json(value: Any) -> str:
    """JSON that can stand in a script element: names cannot end it."""
    return json.dumps(plain(value), separators=(",", ":")).replace("<", "\\u003c")


def pack(quantities: Mapping[str, Numbers]) -> dict[str, Any]:
    """The numbers of one run's quantities, by their names, for `page/embedded.js`."""
    found: dict[str, Any] = {}
    before: tuple[str, Numbers, np.ndarray, int] | None = None
    for name, numbers in quantities.items():
        codes, low = encode(numbers.values)
        own = _packed(codes)
        if before is not None and before[2].shape == codes.shape and before[3] == low:
            # Rows that are not cut have the same norm before the cut and behind it, bit for bit.
            difference = {**_packed(codes - before[2]), "like": before[0]}
            own = min(own, difference, key=lambda one: len(one["text"]))
        found[name] = {"height": numbers.values.shape[1], "low": low, "steps": _steps(numbers.steps), **own}
        before = name, numbers, codes, low
    return found


def encode(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Codes of values, integers of the same shape, and the lowest power of ten of an integer of four digits."""
    size = np.abs(np.asarray(values, np.float64))
    is_number = np.isfinite(size) & (size > 0)
    power = np.floor(np.log10(size, where=is_number, out=np.zeros_like(size))).astype(np.int64) - DIGITS + 1
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        digits = np.rint(np.where(is_number, _scaled(size, -power), 0)).astype(np.int64)
    # Rounding, and the last bit of a logarithm, may reach the next power of ten.
    power, digits = np.where(digits >= 10 * LEAST, power + 1, power), np.where(digits >= 10 * LEAST, LEAST, digits)
    low = int(power[is_number].min()) if is_number.any() else 0
    codes = np.where(is_number, (power - low) * PER_DECADE + np.maximum(digits - LEAST, 0) + NAMED, 0)
    codes = np.where(np.isnan(size), 1, np.where(np.isinf(size), 2, codes))
    return np.where(np.asarray(values) < 0, -codes, codes), low


def _scaled(size: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Size · 10^power, in two steps, as 10^320 is no number of 64 bits."""
    half = power // 2
    return size * 10.0**half * 10.0 ** (power - half)


def _packed(codes: np.ndarray) -> dict[str, Any]:
    signed = bool((codes < 0).any())
    whole = np.where(codes < 0, -2 * codes - 1, 2 * codes) if signed else codes
    planes = max((int(whole.max(initial=0)).bit_length() + 7) // 8, 1)
    content = b"".join((whole >> 8 * plane & 255).astype(np.uint8).tobytes() for plane in range(planes))
    squeezed = zlib.compressobj(9, strategy=zlib.Z_FILTERED)
    text = base64.b85encode(squeezed.compress(content) + squeezed.flush()).translate(SAFE).decode()
    return {"planes": planes, "signed": signed, "text": text}


def _steps(steps: np.ndarray) -> Any:
    """Steps at equal distances as first, stride and count; others as a list."""
    apart = np.diff(steps)
    if not len(apart) or (apart != apart[0]).any():
        return [int(step) for step in steps]
    return {"first": int(steps[0]), "stride": int(apart[0]), "count": len(steps)}
