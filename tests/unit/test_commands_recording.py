"""What commands that read a finished recording share."""

from __future__ import annotations

import numpy as np

from cascade_rt.commands._recording import noise_histogram


def test_noise_histogram() -> None:
    lines = noise_histogram(np.array([1.1, 1.2, 2.5, 30.0, np.nan]), width=4)
    assert lines[0].split() == ["1", "to", "1.5", "####", "2"]
    assert lines[2].split() == ["2", "to", "3", "##", "1"]
    assert lines[-1].split() == ["above", "20", "##", "1"]
    assert noise_histogram(np.full(3, np.nan)) == ["unknown for all neurons"]
