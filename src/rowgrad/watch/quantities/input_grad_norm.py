"""‖∂L/∂τ_r‖₂: what arrives at the network's input in row r, after the cut.

Not zero in a row that detach has cut: the network uses it all the same.
"""

from rowgrad.watch.quantities import TapNorm

QUANTITY = TapNorm(
    "input",
    title="What arrives at the network's input, ‖∂L/∂τᵣ‖",
)
