"""The tab *Rows* of TensorBoard, which finds it by its entry point and imports this at each start: it is light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorboard.plugins.base_plugin import TBLoader
from tensorboard.util import tb_logging

if TYPE_CHECKING:
    from tensorboard.plugins.base_plugin import TBContext, TBPlugin


class Rows(TBLoader):
    """Gives TensorBoard the tab, or nothing where it cannot be had: TensorBoard starts all the same."""

    def load(self, context: TBContext) -> TBPlugin | None:
        """The tab."""
        try:
            from rowgrad.board.plugin import RowsPlugin

            return RowsPlugin(context)
        except Exception as error:  # noqa: BLE001  (whatever is wrong with it, the other tabs are not to suffer)
            tb_logging.get_logger().warning("rowgrad's tab Rows cannot be shown: %s: %s", type(error).__name__, error)
            return None
