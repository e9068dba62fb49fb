"""What is exact in the recorded norms, and how far the rest is from 64 bits."""

import re

import pytest
from conftest import PROJECT, command

TOOL = PROJECT / "tools" / "exactness.py"


# A ReLU whose input is within rounding of zero switches in 64 bits: that moves single norms, most of them hardly.
@pytest.mark.parametrize(("model", "typical", "largest"), [("mlp", 1e-6, 1e-2), ("cnn", 1e-4, 5e-2)])
def test_zeros_are_exact_and_norms_are_in_trainings_own_precision(tmp_path, model, typical, largest):
    for precision, loosest, furthest in (("32-true", typical, largest), ("64-true", 1e-12, 1e-9)):
        options = [f"model={model}", "data=digits", f"trainer.precision={precision}", "trainer.accelerator=cpu"]
        result = command(TOOL, *options, "--steps", "10", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "exact zeros    140 recorded, 140 in 64 bits, the same ones" in result.stdout
        found = re.search(r"n = (\d+): off by (\S+) \(median\), (\S+) \(largest\)", result.stdout)
        assert int(found[1]) == 10 * (14 + 28)
        assert float(found[2]) < loosest
        assert float(found[3]) < furthest
