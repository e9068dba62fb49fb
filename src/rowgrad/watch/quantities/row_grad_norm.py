"""‖∂L/∂θ_r‖₂: what reaches row r, before the cut. Exactly 0.0 in a row that is cut."""

from rowgrad.watch.quantities import TapNorm

QUANTITY = TapNorm("row", title="What reaches the rows, ‖∂L/∂θᵣ‖", chart="What reaches each row: ‖∂L/∂θ_r‖")
