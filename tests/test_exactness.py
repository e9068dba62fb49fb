"""How far recorded norms are from 64 bits, and that zeros are exact."""

import re

import exactness
import pytest


# A ReLU whose input is within rounding of zero switches in 64 bits. This moves few norms, most of them slightly.
@pytest.mark.parametrize(("model", "typical", "largest"), [("mlp", 1e-6, 1e-2), ("cnn", 1e-4, 5e-2)])
def test_zeros_are_exact_and_norms_are_in_trainings_own_precision(capsys, model, typical, largest):
    for precision, typical_, largest_ in (("32-true", typical, largest), ("64-true", 1e-12, 1e-9)):
        options = [f"model={model}", "data=digits", f"trainer.precision={precision}", "trainer.accelerator=cpu"]
        exactness.main([*options, "--steps", "10"])
        output = capsys.readouterr().out
        assert "exact zeros    140 recorded, 140 in 64 bits, the same ones" in output
        found = re.search(r"n = (\d+): off by (\S+) \(median\), (\S+) \(largest\)", output)
        assert int(found[1]) == 10 * (14 + 28)
        assert float(found[2]) < typical_
        assert float(found[3]) < largest_
