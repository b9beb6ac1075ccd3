"""The checks of the book's pages: what they print, and that they fail."""

import numpy as np
import pytest
import torch

from msmeta.verify import check


def test_prints_the_largest_error_relative_to_the_largest_entry(capsys):
    check("Eq. 0", [1.0, 2.0 + 1e-12], torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert capsys.readouterr().out == "Eq. 0: largest relative error 5.0e-13, tolerance 1e-10\n"
    check("parts", {"b": torch.ones(2), "a": np.zeros(1)}, {"a": 0.0, "b": [1, 1]})
    assert "error 0.0e+00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "expected", "message"),
    [
        (1.0, 1.001, r"Eq. 0: largest relative error 1.0e-03, tolerance 1e-10"),
        (float("nan"), 1.0, "error nan"),
        ([1.0, 2.0], [1.0], "2 numbers against 1"),
        (0.0, 0.0, "error nan"),  # nothing is proved by a formula whose two sides are zero
    ],
)
def test_raises_beyond_the_tolerance(found, expected, message):
    with pytest.raises(AssertionError, match=message):
        check("Eq. 0", found, expected)
