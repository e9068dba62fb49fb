"""One interactive page: the numbers inside it, its script, its policy. `test_tab.py` opens it in a browser."""

import base64
import hashlib
import json
import math
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from rowgrad.board.embedding import encode, pack, script
from rowgrad.board.reading import Numbers
from rowgrad.errors import UserError
from rowgrad.results.logged import LoggedRun
from rowgrad.results.page import score_of
from rowgrad.results.show import show

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%,()*+-;.=/?@^_:{|}~"
HOSTILE = "</script><script>document.title='taken'</script><!--"


class Elements(HTMLParser):
    """The text of each script, and the content of the page's policy."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.policy, self._inside = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"]

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] += data


def codes_in(packed, name):
    """Codes of a packed quantity, read with no code of the package."""
    one = packed[name]
    numbers = [DIGITS.index(digit) for digit in one["text"]]
    short = -len(numbers) % 5
    groups = np.array(numbers + [84] * short).reshape(-1, 5)
    words = [sum(int(digit) * 85 ** (4 - place) for place, digit in enumerate(group)) for group in groups]
    content = zlib.decompress(b"".join(word.to_bytes(4, "big") for word in words)[: len(words) * 4 - short])
    planes = np.frombuffer(content, np.uint8).reshape(one["planes"], -1).astype(int)
    codes = sum(plane * 256**place for place, plane in enumerate(planes))
    if one["signed"]:
        codes = np.where(codes % 2, -(codes + 1) // 2, codes // 2)
    return codes + codes_in(packed, one["like"]) if "like" in one else codes


def value_of(code, low):
    size = abs(int(code))
    if size < 3:
        return math.copysign([0.0, math.nan, math.inf][size], code)
    power, digits = divmod(size - 3, 9000)
    return math.copysign(float(f"{digits + 1000}e{power + low}"), code)


def decoded(packed, name):
    values = [value_of(code, packed[name]["low"]) for code in codes_in(packed, name)]
    return np.array(values).reshape(-1, packed[name]["height"])


def rounded(values):
    """Four significant digits, as a person would write them."""
    return np.vectorize(lambda value: float(f"{value:.3e}"))(values)


def numbers(values, steps=None):
    values = np.asarray(values, float)
    return Numbers(np.arange(len(values)) if steps is None else np.asarray(steps), values)


def test_values_are_right_to_four_digits_and_zeros_are_exact():
    generator = np.random.default_rng(0)
    values = 10 ** generator.uniform(-12, 3, (200, 28))
    values[:, :5] = 0
    values[3, 9] = np.nan
    values[7, 1] = np.inf
    np.testing.assert_array_equal(decoded(pack({"a": numbers(values)}), "a"), rounded(values))


@pytest.mark.parametrize(
    "extreme", [5e-324, 1e-310, 2.2e-308, 1.7976931348623157e308, 9.9995, 9.9994999, 999949999.0, -3.0]
)
def test_numbers_at_the_ends_of_64_bits_are_right_too(extreme):
    values = np.array([[extreme, 1.0, 0.0]])
    found = decoded(pack({"a": numbers(values)}), "a")
    np.testing.assert_allclose(found, rounded(values), rtol=1e-15 if abs(extreme) > 1e-300 else 0.5)
    assert ((found == 0) == (values == 0)).all()


def test_a_quantity_that_equals_another_where_it_is_not_cut_takes_little():
    generator = np.random.default_rng(0)
    arrives = np.exp(generator.normal(size=(400, 28)))
    reaches = arrives.copy()
    reaches[:, :14] = 0
    packed = pack({"row_grad_norm": numbers(reaches), "input_grad_norm": numbers(arrives)})
    assert packed["input_grad_norm"]["like"] == "row_grad_norm"
    assert len(packed["input_grad_norm"]["text"]) < 1.1 * len(packed["row_grad_norm"]["text"])
    for name, values in {"row_grad_norm": reaches, "input_grad_norm": arrives}.items():
        np.testing.assert_array_equal(decoded(packed, name), rounded(values))


@pytest.mark.parametrize("steps", [[0], [0, 1, 2, 3], [5, 15, 25], [0, 1, 5], [7, 10**12]])
def test_steps_are_exact(steps):
    kept = pack({"a": numbers(np.ones((len(steps), 1)), steps)})["a"]["steps"]
    found = kept if isinstance(kept, list) else [kept["first"] + kept["stride"] * n for n in range(kept["count"])]
    assert found == steps


def test_codes_of_nothing_are_nothing():
    codes, low = encode(np.zeros((0, 3)))
    assert codes.shape == (0, 3)
    assert low == 0


# ---- the page


def folder_of(path, values, name="tap_grad_norm"):
    """A logger's folder with these norms (T, H)."""
    path.mkdir(parents=True)
    header = ",".join(["step", *(f"{name}/row_{row:02d}" for row in range(values.shape[1]))])
    lines = [",".join(map(repr, [step, *line])) for step, line in enumerate(values.tolist())]
    (path / "row_gradients.csv").write_text("\n".join([header, *lines]) + "\n")
    return path


def data_in(page):
    return json.loads(Elements(page.text).scripts[0])


def test_the_page_has_the_runs_numbers_and_nothing_from_elsewhere(tmp_path):
    values = torch.rand(30, 4, dtype=torch.float64)
    page = show(folder_of(tmp_path / "version_0", values))
    data = data_in(page)
    assert [run["name"] for run in data["answer"]["runs"]] == ["version_0"]
    np.testing.assert_array_equal(decoded(data["norms"]["version_0"], "tap_grad_norm"), rounded(values.numpy()))
    assert not re.findall(r'(?:src|href)\s*=\s*"', re.sub(r"<script.*?</script>", "", page.text, flags=re.DOTALL))


def test_the_policy_allows_the_pages_own_script_alone(tmp_path):
    elements = Elements(show(folder_of(tmp_path / "run", torch.ones(3, 2))).text)
    digest = base64.b64encode(hashlib.sha256(elements.scripts[1].encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}';" in elements.policy
    assert "http" not in elements.policy


def test_a_name_is_text_wherever_it_is(tmp_path):
    folder = folder_of(tmp_path / HOSTILE.replace("/", "∕"), torch.ones(3, 2), name=HOSTILE.replace("/", ""))
    (folder / "hparams.yaml").write_text(json.dumps({HOSTILE: HOSTILE}))
    page = show(LoggedRun(folder))
    assert len(Elements(page.text).scripts) == 2
    assert data_in(page)["answer"]["runs"][0]["facts"]["settings"] == {HOSTILE: HOSTILE}


def test_the_script_has_no_imports_left_and_every_module_before_its_use():
    text = script()
    assert not re.search(r"^(import|export)\b", text, re.MULTILINE)
    defined = []
    for line in text.splitlines():
        if match := re.match(r"const \$(\w+) = \(", line):
            defined.append(match[1])
        elif match := re.match(r"const \{.*\} = \$(\w+);", line):
            assert match[1] in defined[:-1]
    assert text.endswith("$index.render();")


def test_fewer_steps_are_at_equal_distances_and_the_page_says_so(tmp_path):
    values = torch.rand(100, 3, dtype=torch.float64)
    folder = folder_of(tmp_path / "run", values)
    assert data_in(show(folder))["answer"]["note"] == ""
    data = data_in(show(folder, steps=30))
    assert data["norms"]["run"]["tap_grad_norm"]["steps"] == {"first": 0, "stride": 4, "count": 25}
    assert data["answer"]["note"] == "A sample of the recorded steps, at equal distances."
    np.testing.assert_array_equal(decoded(data["norms"]["run"], "tap_grad_norm"), rounded(values[::4].numpy()))


def test_a_notebook_gets_a_frame_with_the_page_as_its_text(tmp_path):
    page = show([folder_of(tmp_path / name, torch.ones(3, 2)) for name in ("a", "b")])
    frame = page._repr_html_()
    parser = HTMLParser()
    found = []
    parser.handle_starttag = lambda tag, attrs: found.append((tag, dict(attrs)))
    parser.feed(frame)
    assert [tag for tag, _ in found] == ["iframe"]
    assert found[0][1]["srcdoc"] == page.text
    page.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page.text


def test_nothing_to_show_is_said(tmp_path):
    with pytest.raises(UserError, match="there is no run in the list"):
        show([])
    with pytest.raises(UserError, match=r"is not a run's folder: there is no config\.yaml and no row_gradients\.csv"):
        show(tmp_path)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"train_loss": 1, "val_acc": 0.5, "val_loss": 2}, ("val_acc", 0.5)),
        ({"train/acc": 0.9, "test/acc": 0.5}, ("test/acc", 0.5)),
        ({"loss": 1, "val_loss": 2}, ("val_loss", 2)),
        ({"lr": 1}, None),
    ],
)
def test_the_metric_that_is_shown_with_a_run(metrics, expected):
    assert score_of(metrics) == expected
