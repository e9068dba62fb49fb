"""What stands in an event file under which name, for those who write it and those who read it."""

import re

ROW = re.compile(r"(?P<quantity>.+)/row_(?P<row>\d{1,4})")  # the tag of a row's number
FACTS = "rowgrad"  # whose records hold what a run says of itself: an object of JSON each
ABOUT, SELECTED, OUTCOME = (f"{FACTS}/{name}" for name in ("about", "selected", "outcome"))  # the tags of these


def row_tags(quantity: str, height: int) -> list[str]:
    """TensorBoard tags and columns of a quantity: `row_grad_norm/row_00`, ..., one for each of the H rows."""
    return [f"{quantity}/row_{row:02d}" for row in range(height)]
