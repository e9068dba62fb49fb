"""The tab's part of TensorBoard's server: two JSON or binary answers, and the files of the page."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.context import RequestContext
from tensorboard.errors import NotFoundError
from tensorboard.plugins.base_plugin import FrontendMetadata, TBContext, TBPlugin
from tensorboard.plugins.scalar.metadata import PLUGIN_NAME as SCALARS
from werkzeug.wrappers import Request, Response

from rowgrad.board.reading import Reader, described, plain
from rowgrad.watch.quantities import ARRIVES, FACTS, REACHES

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).with_name("page")
KINDS = {".js": "text/javascript", ".css": "text/css"}
KEPT = 1000  # steps of each scalar: TensorBoard's default for --samples_per_plugin


class RowsPlugin(TBPlugin):
    """Rows × steps of every run, from all scalars named `<quantity>/row_<number>`.

    Routes, below `data/plugin/rowgrad/`:
        * `runs`: JSON: each run with its quantities, and the titles and units of all quantities
        * `norms?run=&quantity=[&after=]`: the values of steps later than `after`, in the format of `Numbers.packed`;
          404 if there is no such run or quantity
        * the files of the page

    Args:
        context: TensorBoard's.
    """

    plugin_name = FACTS

    def __init__(self, context: TBContext) -> None:
        self._provider: Any = context.data_provider
        self._kept = (context.sampling_hints or {}).get(SCALARS, KEPT)

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """The routes."""
        files = {f"/{file.name}": _serve(file) for file in PAGE.iterdir() if file.suffix in KINDS}
        return {"/runs": Request.application(self.runs), "/norms": Request.application(self.norms), **files}

    def is_active(self) -> bool:
        """Whether any run has rows. TensorBoard asks only if no run has records of this plugin."""
        return bool(Reader(self._provider, RequestContext(), "").quantities())

    def frontend_metadata(self) -> FrontendMetadata:
        """The tab's name and page."""
        return FrontendMetadata(es_module_path="/index.js", tab_name="Rows")

    def runs(self, request: Request) -> Response:
        """All runs that have rows, and what the page needs to show them."""
        runs = self._reader(request).runs()
        answer = {
            "runs": runs,
            "quantities": described(runs),
            "pair": [REACHES, ARRIVES],
            "kept": self._kept,
            "now": time.time(),
        }
        return http_util.Respond(request, plain(answer), "application/json")

    def norms(self, request: Request) -> Response:
        """The values of one run's quantity."""
        asked = request.args
        numbers = self._reader(request).numbers(asked.get("run", ""), asked.get("quantity", ""))
        if numbers is None:
            raise NotFoundError("there is no such run, or it has no such quantity")
        after = asked.get("after", -math.inf, type=float)
        return http_util.Respond(request, numbers.after(after).packed(), "application/octet-stream")

    def _reader(self, request: Request) -> Reader:
        environment = request.environ
        return Reader(self._provider, plugin_util.context(environment), plugin_util.experiment_id(environment))


def _serve(file: Path) -> Callable[..., Any]:
    """The answer with a file of the page, which is read at each request."""

    def answer(request: Request) -> Response:
        return http_util.Respond(request, file.read_bytes(), KINDS[file.suffix])

    return Request.application(answer)
