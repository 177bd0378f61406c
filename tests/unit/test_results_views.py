"""Results as objects of pynapple and xarray: the same numbers, times and names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from result_files import IS_CELL, N_NEURONS, NOISE, SPIKES, prob_of, write_portable

from cascade_rt.errors import InputError
from cascade_rt.formats import extras
from cascade_rt.results import open_result

IDS = (11, 5, 7, 2, 9, 4)


@pytest.fixture
def result(tmp_path):
    path = write_portable(tmp_path / "a.h5", ("plane1",), spikes=True, first_frame=10, neuron_ids=IDS, dff=True,
                          f0=np.arange(6.0), metadata={"kind": "dff"})  # fmt: skip
    with open_result(path) as result:
        yield result["plane1"]


def test_pynapple(result):
    frame = result.to_pynapple()
    assert type(frame).__name__ == "TsdFrame"
    np.testing.assert_allclose(frame.t, np.arange(10, 60) / 20, atol=1e-9)
    np.testing.assert_array_equal(np.asarray(frame.d), prob_of().T)
    assert list(frame.columns) == list(range(N_NEURONS))
    np.testing.assert_array_equal(frame["neuron_id"], IDS)
    np.testing.assert_array_equal(frame["noise_level"], NOISE)
    np.testing.assert_array_equal(frame["is_cell"], IS_CELL)


def test_pynapple_spikes(result):
    group = result.spikes_to_pynapple()
    assert list(group.keys()) == list(range(N_NEURONS))
    for row, columns in enumerate(SPIKES):
        np.testing.assert_allclose(group[row].t, (np.array(columns) + 10) / 20, atol=1e-9)
    np.testing.assert_array_equal(group["neuron_id"], IDS)
    np.testing.assert_allclose(group.time_support.start, 0.5)
    np.testing.assert_allclose(group.time_support.end, 3.0)
    np.testing.assert_allclose(group["rate"][0], 3 / 2.5)


def test_timestamps_are_the_time_of_everything(tmp_path):
    times = np.arange(50) ** 1.1 + 100
    write_portable(tmp_path / "a.h5", spikes=True, timestamps=times)
    with open_result(tmp_path / "a.h5") as result:
        np.testing.assert_allclose(result.to_pynapple().t, times, atol=1e-9)
        np.testing.assert_allclose(result.spikes_to_pynapple()[3].t, times[[0, 49]], atol=1e-9)
        np.testing.assert_array_equal(result.to_xarray().time, times)


def test_xarray(result):
    view = result.to_xarray()
    assert view.spike_prob.dims == ("neuron", "time")
    np.testing.assert_array_equal(view.spike_prob, prob_of())
    np.testing.assert_array_equal(view.dff, -prob_of())
    np.testing.assert_array_equal(view.neuron, IDS)
    np.testing.assert_allclose(view.time, np.arange(10, 60) / 20)
    np.testing.assert_array_equal(view.frame, np.arange(10, 60))
    np.testing.assert_array_equal(view.noise_level, NOISE)
    np.testing.assert_array_equal(view.is_cell, IS_CELL)
    assert view.spike_prob.attrs["units"] == "spikes per frame"
    assert view.time.attrs["units"] == "s"
    assert view.noise_level.attrs["units"] == "% Hz^-1/2"
    assert view.attrs["frame_rate_hz"] == 20.0
    assert json.loads(view.attrs["metadata"]) == {"kind": "dff"}
    # The second neuron is called 5.
    np.testing.assert_array_equal(view.spike_prob.sel(neuron=5), prob_of()[1])


def test_results_without_spikes(tmp_path):
    write_portable(tmp_path / "a.h5")
    with open_result(tmp_path / "a.h5") as result, pytest.raises(InputError, match="cascade-rt discretize"):
        result.spikes_to_pynapple()


@pytest.mark.parametrize("method", ["to_pynapple", "spikes_to_pynapple", "to_xarray"])
def test_missing_packages_are_named(result, monkeypatch, method):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(extras, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install \"cascade-rt\[views\]\""):
        getattr(result, method)()
