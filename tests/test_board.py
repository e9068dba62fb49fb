"""The server's part of the tab *Rows*: answers against `row_gradients.csv`, from both data loaders."""

import base64
import csv
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from conftest import QUICK, build, configure, events, summary, train
from foreign import Segmenter, fit
from tensorboard.backend.application import TensorBoardWSGI, make_plugin_loader
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.data.grpc_provider import GrpcDataProvider, make_stub
from tensorboard.data.server_ingester import get_server_binary
from tensorboard.default import get_plugins
from tensorboard.plugins.base_plugin import TBContext
from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client

from rowgrad import RowGradientRecorder
from rowgrad.board import Rows
from rowgrad.board.plugin import PAGE
from rowgrad.board.reading import parsed
from rowgrad.watch.hparams import digest_but_for_seed
from rowgrad.watch.loggers import add_facts
from rowgrad.watch.quantities import ABOUT, OUTCOME

AT = "/data/plugin/rowgrad"


@contextmanager
def fast_provider(logdir):
    """TensorBoard's own server of data, which it starts unless told `--load_fast=false`."""
    with tempfile.TemporaryDirectory() as folder:
        port = Path(folder) / "port"
        arguments = [f"--logdir={logdir}", "--reload=1", "--samples-per-plugin=scalars=all", "--port=0"]
        server = subprocess.Popen([get_server_binary().path, *arguments, f"--port-file={port}"])
        try:
            until(lambda: port.exists() and port.read_text().endswith("\n"))
            address = f"localhost:{port.read_text().strip()}"
            channel = grpc.secure_channel(address, grpc.local_channel_credentials())
            yield GrpcDataProvider(address, make_stub(channel))
        finally:
            server.kill()
            server.wait()


def until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def providers(logdir):
    """TensorBoard's two ways of reading, when both have read everything."""
    multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 0}).AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    slow = MultiplexerDataProvider(multiplexer, str(logdir))

    def known(provider):
        listed = provider.list_scalars(RequestContext(), experiment_id="", plugin_name="scalars")
        return {(run, tag): series.max_wall_time for run, tags in listed.items() for tag, series in tags.items()}

    with fast_provider(logdir) as fast:
        until(lambda: known(fast) == known(slow))
        yield {"fast": fast, "slow": slow}


def asking(provider, **context):
    plugin = Rows().load(TBContext(data_provider=provider, **context))
    return Client(TensorBoardWSGI([plugin], data_provider=provider))


@contextmanager
def clients(logdir):
    with providers(logdir) as both:
        yield {name: asking(provider) for name, provider in both.items()}


def told(client):
    answer = client.get(f"{AT}/runs")
    assert answer.status_code == 200
    return answer.json


def unpacked(answer):
    """Steps, and numbers by step and row, read as a browser would."""
    assert answer.status_code == 200
    count, height = struct.unpack_from("<II", answer.data)
    steps = struct.unpack_from(f"<{count}d", answer.data, 8)
    values = struct.unpack_from(f"<{count * height}f", answer.data, 8 + 8 * count)
    assert len(answer.data) == 8 + 8 * count + 4 * count * height
    return [int(step) for step in steps], np.reshape(values, (count, height))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of augment and one of a GRU that is cut between rows."""
    folder = tmp_path_factory.mktemp("board")
    steps = ["trainer.max_steps=12", "trainer.max_epochs=2", "callbacks.histograms=null", "seed=3"]
    train(configure(*QUICK, *steps, "scenario=augment"), folder / "augment")
    train(configure(*QUICK, *steps, "model=gru", "scenario=truncate"), folder / "truncate")
    return folder


@pytest.fixture(scope="module")
def providing(runs):
    with providers(runs) as found:
        yield found


@pytest.fixture(scope="module")
def both(providing):
    return {name: asking(provider) for name, provider in providing.items()}


@pytest.mark.parametrize("loader", ["fast", "slow"])
@pytest.mark.parametrize("run", ["augment", "truncate"])
def test_the_numbers_are_those_of_the_csv(runs, both, loader, run):
    with (runs / run / "row_gradients.csv").open() as file:
        lines = list(csv.DictReader(file))
    for quantity in ("row_grad_norm", "input_grad_norm"):
        asked = {"run": f"{run}/tensorboard", "quantity": quantity}
        steps, values = unpacked(both[loader].get(f"{AT}/norms", query_string=asked))
        assert steps == list(range(12))
        for step, line in zip(steps, lines, strict=True):
            written = np.array([float(line[f"{quantity}/row_{row:02d}"]) for row in range(28)])
            # One was rounded to nine digits, the other to 32 bits.
            np.testing.assert_allclose(values[step], written, rtol=1e-7)
            assert ((values[step] == 0) == (written == 0)).all()
        assert (values[:, :14] == 0).all() == (run == "truncate" or quantity == "row_grad_norm")
        later = both[loader].get(f"{AT}/norms", query_string={**asked, "after": "7"})
        assert unpacked(later)[0] == [8, 9, 10, 11]
        assert np.array_equal(unpacked(later)[1], values[8:])
        assert unpacked(both[loader].get(f"{AT}/norms", query_string={**asked, "after": "11"}))[0] == []


def test_a_quantity_that_is_not_in_the_csv(runs, both):
    asked, logged = {"run": "augment/tensorboard", "quantity": "row_update_norm"}, events(runs / "augment")
    for client in both.values():
        steps, values = unpacked(client.get(f"{AT}/norms", query_string=asked))
        for row in range(28):
            assert logged[f"row_update_norm/row_{row:02d}"] == list(zip(steps, values[:, row].tolist(), strict=True))


@pytest.mark.parametrize("loader", ["fast", "slow"])
def test_runs_have_facts_and_an_accuracy(runs, both, loader):
    answer = told(both[loader])
    augment, truncate = answer["runs"]
    assert [run["name"] for run in answer["runs"]] == ["augment/tensorboard", "truncate/tensorboard"]
    assert augment["quantities"]["row_grad_norm"] == {"rows": 28, "step": 11, "names": [], "kind": "row"}
    assert [quantity["name"] for quantity in answer["quantities"]] == [
        "row_grad_norm", "input_grad_norm", "row_update_norm", "row_grad_stopped",
    ]  # fmt: skip
    assert augment["accuracy"] == ["test/acc", pytest.approx(summary(runs / "augment")["test/acc"])]
    assert augment["ended"]
    facts = augment["facts"]
    assert (facts["status"], facts["selected"], facts["edges"]) == ("done", list(range(14)), False)
    assert (truncate["facts"]["selected"], truncate["facts"]["edges"]) == ([14], True)
    assert (facts["made_by"], truncate["facts"]["made_by"]) == ("detach", "detach")
    assert facts["sentence"].startswith("Rows 0–13 are detached, shifted by +1")
    assert (facts["settings"]["scenario"], facts["settings"]["seed"]) == ("augment", 3)


def test_the_mean_digit_is_that_of_the_training_images(both):
    facts = told(both["fast"])["runs"][0]["facts"]
    shown = np.frombuffer(base64.b64decode(facts["digit"]), np.uint8).reshape(28, facts["columns"])
    pixels = build(configure(*QUICK))[0].dataset.train.pixels.numpy().astype(float)
    mean = pixels.mean(0) / pixels.mean(0).max() * 255
    assert np.abs(shown - mean).max() <= 1


def test_runs_that_differ_only_in_the_seed_are_alike():
    first = digest_but_for_seed(configure(*QUICK, "seed=0"))
    assert digest_but_for_seed(configure(*QUICK, "seed=1")) == first
    others = ["scenario.detach=false", "optimizer.lr=0.02", "scenario=modify", "data.batch_size=64"]
    assert len({first, *(digest_but_for_seed(configure(*QUICK, other)) for other in others)}) == 5


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"run": "augment/tensorboard"},
        {"run": "../augment", "quantity": "row_grad_norm"},
        {"run": "augment/tensorboard", "quantity": "train"},
        {"run": "augment/tensorboard", "quantity": "<img src=x onerror=alert(1)>"},
    ],
)
def test_a_run_or_quantity_that_is_not_there_is_404(both, query):
    for client in both.values():
        answer = client.get(f"{AT}/norms", query_string=query)
        assert answer.status_code == 404
        assert "img" not in answer.text
        assert answer.mimetype == "text/plain"


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_the_taps_of_any_module(tmp_path):
    fit(Segmenter(), Segmenter.batches(), tmp_path / "theirs")
    with clients(tmp_path) as found:
        (run,) = told(found["fast"])["runs"]
        assert {name: one["rows"] for name, one in run["quantities"].items()} == {
            "tap_grad_norm": 12, "neck.tap_grad_norm": 6,
        }  # fmt: skip
        assert run["facts"] == {}
        asked = {"run": run["name"], "quantity": "neck.tap_grad_norm"}
        steps, values = unpacked(found["slow"].get(f"{AT}/norms", query_string=asked))
        logged = events(tmp_path / "theirs")["neck.tap_grad_norm/row_02"]
        assert logged == list(zip(steps, values[:, 2].tolist(), strict=True))


def write(folder, scalars, *facts):
    writer = SummaryWriter(str(folder))
    for tag, points in scalars.items():
        for step, value in points:
            writer.add_scalar(tag, value, step)
    for tag, told_of in facts:
        add_facts(writer, tag, told_of)
    writer.close()


def test_rows_with_different_steps_are_one_table(tmp_path):
    write(tmp_path / "gaps", {"q/row_0": [(0, 1.0), (4, 2.0)], "q/row_2": [(4, 3.0), (6, float("inf"))]})
    nan = np.nan
    with clients(tmp_path) as found:
        for client in found.values():
            steps, values = unpacked(client.get(f"{AT}/norms", query_string={"run": "gaps", "quantity": "q"}))
            assert steps == [0, 4, 6]
            np.testing.assert_array_equal(values, [[1, nan, nan], [2, nan, 3], [nan, nan, np.inf]])


def test_a_hostile_event_file(tmp_path):
    scalars = {"q/row_00": [(0, 1.0)], "q/row_99999999": [(0, 1.0)], "val/acc": [(0, float("nan"))]}
    scalars |= {"<b>/row_1": [(0, float("-inf"))], "row_3": [(0, 1.0)], "/row_1": [(0, 1.0)]}
    odd = {"status": {"a": float("nan")}, "selected": "all", "digit": 7, "settings": [1]}
    name = "<img src=x onerror=alert(1)>"
    write(tmp_path / name, scalars, (ABOUT, odd))
    writer = SummaryWriter(str(tmp_path / name))
    writer.add_tensor("rowgrad/outcome", torch.zeros(3))
    writer.close()
    with clients(tmp_path) as found:
        for client in found.values():
            (run,) = told(client)["runs"]
            assert run["name"] == name
            assert {name: one["rows"] for name, one in run["quantities"].items()} == {"q": 1, "<b>": 2}
            assert run["accuracy"] is None
            assert run["facts"]["status"] == {"a": None}


def test_malformed_facts_are_left_out():
    for facts in ("no JSON", "[1, 2]", "3", '{"cut": 1'):
        assert parsed(np.array(facts.encode(), dtype=object)) == {}
    assert parsed(np.zeros(3)) == {}


def test_what_was_recorded_is_said_in_place_of_what_was_expected(tmp_path):
    write(tmp_path / "run", {"q/row_0": [(0, 1.0)]}, (OUTCOME, {"made_by": ""}), (ABOUT, {"made_by": "detach"}))
    with clients(tmp_path) as found:
        assert [told(client)["runs"][0]["facts"]["made_by"] for client in found.values()] == ["", ""]


def test_a_resumed_run_has_not_ended(tmp_path):
    write(tmp_path / "run", {"q/row_0": [(0, 1.0)]}, (OUTCOME, {"status": "interrupted"}))
    with clients(tmp_path) as found:
        assert [run["ended"] for run in told(found["fast"])["runs"]] == [True]
    time.sleep(0.01)
    write(tmp_path / "run", {"q/row_0": [(1, 1.0)]})
    with clients(tmp_path) as found:
        for client in found.values():
            (run,) = told(client)["runs"]
            assert (run["ended"], run["facts"]["status"]) == (False, "interrupted")


def test_the_tab_is_active_if_a_run_has_rows(tmp_path, providing):
    with providers(tmp_path) as none:
        for some, provider in [(False, none["slow"]), (False, none["fast"]), *((True, p) for p in providing.values())]:
            assert Rows().load(TBContext(data_provider=provider)).is_active() == some


def test_the_tab_knows_how_many_steps_tensorboard_keeps(providing):
    for hints, kept in [(None, 1000), ({}, 1000), ({"scalars": 0}, 0), ({"scalars": 50}, 50)]:
        assert told(asking(providing["slow"], sampling_hints=hints))["kept"] == kept


def test_tensorboard_finds_the_tab_and_imports_nothing_heavy_for_it():
    (entry,) = (one for one in entry_points(group="tensorboard_plugins") if one.name == "rowgrad")
    assert entry.load() is Rows
    heavy = ["torch", "lightning", "hydra", "omegaconf", "matplotlib", "torchvision", "scipy", "sklearn", "pandas"]
    code = f"import rowgrad.board.plugin, sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_it_works_with_all_other_tabs(providing):
    for provider in providing.values():
        context = TBContext(data_provider=provider)
        plugins = [make_plugin_loader(plugin).load(context) for plugin in get_plugins()]
        app = TensorBoardWSGI([one for one in plugins if one is not None], data_provider=provider)
        listed = Client(app).get("/data/plugins_listing").json
        assert {"scalars", "timeseries", "custom_scalars", "hparams"} < listed.keys()
        assert listed["rowgrad"]["enabled"]
        assert listed["rowgrad"]["loading_mechanism"] == {"type": "IFRAME", "module_path": f"{AT}/index.js"}
        assert listed["rowgrad"]["tab_name"] == "Rows"


def test_a_tab_that_cannot_be_imported_keeps_no_tensorboard_from_starting(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "rowgrad.board.plugin", None)
    assert Rows().load(TBContext()) is None
    assert "rowgrad's tab Rows cannot be shown: ModuleNotFoundError" in caplog.text


def test_the_page_comes_from_here_alone(both):
    for file in PAGE.iterdir():
        text = file.read_text()
        answer = both["fast"].get(f"{AT}/{file.name}")
        assert answer.status_code == 200
        assert answer.text == text
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # the name of a namespace
        assert not any(word in text for word in ("innerHTML", "outerHTML", "insertAdjacent", "eval(", "document.write"))
    assert both["fast"].get(f"{AT}/plugin.py").status_code == 404
    assert both["fast"].get(f"{AT}/..%2fplugin.py").status_code == 404
    assert "export function render" in (PAGE / "index.js").read_text()


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_layers_are_rows_in_the_order_of_the_module_with_their_names(tmp_path):
    fit(Segmenter(), Segmenter.batches(), tmp_path, recorder=RowGradientRecorder(layers=True, dirpath=tmp_path))
    names = ["down", "up.1", "total"]
    with (tmp_path / "row_gradients.csv").open() as file:
        lines = list(csv.DictReader(file))
    with clients(tmp_path) as both:
        for client in both.values():
            (run,) = told(client)["runs"]
            assert run["quantities"]["layer_grad_norm"]["names"] == names
            asked = {"run": run["name"], "quantity": "layer_grad_norm"}
            _, values = unpacked(client.get(f"{AT}/norms", query_string=asked))
            written = [[float(line[f"layer_grad_norm/{name}"]) for name in names] for line in lines]
            np.testing.assert_allclose(values, written, rtol=1e-7)
