"""TensorBoard's tab *Rows*. TensorBoard finds it by its entry point and imports it at each start, so it is light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorboard.plugins.base_plugin import TBLoader
from tensorboard.util import tb_logging

if TYPE_CHECKING:
    from tensorboard.plugins.base_plugin import TBContext, TBPlugin


class Rows(TBLoader):
    """Loads the tab. If that fails, TensorBoard starts without it."""

    def load(self, context: TBContext) -> TBPlugin | None:
        """The tab; None if it cannot be imported."""
        try:
            from rowgrad.board.plugin import RowsPlugin

            return RowsPlugin(context)
        except Exception as error:  # noqa: BLE001  (an error here would keep TensorBoard from starting)
            tb_logging.get_logger().warning("rowgrad's tab Rows cannot be shown: %s: %s", type(error).__name__, error)
            return None
