"""CaImAn files: noise and background where they belong, and every oddity of its dump of objects."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from scipy import sparse
from scipy.ndimage import median_filter, percentile_filter

from cascade_rt.baseline import BaselineOptions, delta_f_over_f
from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.formats import caiman, open_source
from cascade_rt.noise import noise_levels

N, T, PIXELS, RATE = 6, 1200, 400, 20.0
MISSING = "NoneType"  # how CaImAn stores None


def estimates(seed=0, n_frames=T):
    """What CNMF finds: footprints that are not normalised, calcium, noise, and a background that bleaches."""
    rng = np.random.default_rng(seed)
    spikes = rng.poisson(0.02, (N, n_frames)).astype(float)
    decay = np.exp(-np.arange(80) / 15)
    c = np.stack([np.convolve(row, decay)[:n_frames] for row in spikes]) * 3.0
    residuals = rng.normal(0, 0.4, c.shape)
    footprints = sparse.random(PIXELS, N, 0.1, random_state=seed, format="csc") * 2.0
    b = np.abs(rng.normal(5, 1, (PIXELS, 2)))
    f = np.stack([np.linspace(3, 2, n_frames), 1 + 0.01 * rng.normal(size=n_frames)])
    norms = np.sqrt(np.asarray(footprints.power(2).sum(axis=0)).ravel())
    fluorescence = norms[:, None] * (c + residuals)
    background = (footprints / norms).T @ b @ f
    return {
        "A": footprints, "b": b, "C": c, "f": f, "R": None, "YrA": residuals, "S": spikes, "F_dff": None, "W": None,
        "b0": None, "bl": np.zeros(N), "idx_components": np.array([0, 2, 5]), "dims": np.array([20, 20]),
    }, fluorescence, background  # fmt: skip


def detrended(fluorescence, background):
    """ΔF/F by CaImAn's definition, with one low percentile for the whole recording."""
    low, level = np.percentile(fluorescence, 8, axis=1), np.median(background, axis=1)
    return (fluorescence - low[:, None]) / (low + level)[:, None]


def write(path, values, group="estimates", **params):
    with h5py.File(path, "w") as file:
        file["dview"] = MISSING
        for name, value in values.items():
            place = f"{group}/{name}"
            if value is None:
                file[place] = MISSING
            elif sparse.issparse(value):
                stored = value.tocsc()
                for part in ("data", "indptr", "indices", "shape"):
                    file[f"{place}/{part}"] = getattr(stored, part)
            else:
                file[place] = value
        for name, value in ({"params/data/fr": RATE, "params/data/decay_time": 0.4} | params).items():
            if value is not None:
                file[name] = value
    return path


def only(path, **options):
    with open_source(path, **options) as source:
        assert (source.format, source.files) == ("caiman", (path,))
        recording = source.only()
        return recording, recording.traces[:]


def test_the_background_makes_f0(tmp_path):
    values, fluorescence, background = estimates(n_frames=5 * T)
    recording, traces = only(write(tmp_path / "results.hdf5", values))
    assert (recording.kind, recording.key) == ("fluorescence", "estimates/C + estimates/YrA")
    assert recording.frame_rate_hz == RATE
    assert recording.native == {"group": "estimates", "n_components": N, "n_frames": 5 * T}
    np.testing.assert_array_equal(recording.is_cell, [True, False, True, False, False, True])
    # Frame by frame: what is added to the fluorescence is the slow part of the background alone.
    added = traces - fluorescence
    slow = median_filter(background, (1, 201))
    for frame in (700, 3000, 5300):
        np.testing.assert_allclose(added[:, frame], slow[:, frame], rtol=0.01)
    assert np.abs(np.diff(added, axis=1)).max() < 1e-3 * added.mean()
    # The ΔF/F from it is CaImAn's, which that of C + YrA alone is not.
    options = BaselineOptions(percentile=8, window_s=60, smoothing_s=0)
    found = delta_f_over_f(traces, frame_rate_hz=RATE, options=options).dff
    low = percentile_filter(fluorescence, 8, (1, 1201))
    inner = slice(1200, -1200)
    for mine, theirs in zip(found[:, inner], ((fluorescence - low) / (low + slow))[:, inner], strict=True):
        assert np.corrcoef(mine, theirs)[0, 1] > 0.995
        assert np.polyfit(theirs, mine, 1)[0] == pytest.approx(1, abs=0.03)
    assert any("detrend_df_f" in fact for fact in recording.facts)


def test_slices_agree_with_the_whole(tmp_path):
    path = write(tmp_path / "results.hdf5", estimates()[0])
    with open_source(path) as source:
        lazy = source.only().traces
        assert lazy.shape == (N, T)
        whole = lazy[:]
        np.testing.assert_array_equal(lazy[2:4, 100:137], whole[2:4, 100:137])
        np.testing.assert_array_equal(lazy[[0, 5], 1000:], whole[[0, 5], 1000:])
        np.testing.assert_array_equal(lazy[3], whole[3])
        np.testing.assert_array_equal(lazy[-1, 7:9], whole[-1, 7:9])


def test_dff_with_residuals_is_preferred(tmp_path):
    values, fluorescence, background = estimates()
    values["F_dff"] = detrended(fluorescence, background)
    recording, traces = only(write(tmp_path / "results.hdf5", values))
    assert (recording.kind, recording.key) == ("dff", "estimates/F_dff")
    np.testing.assert_array_equal(traces, values["F_dff"])
    recording, _ = only(tmp_path / "results.hdf5", kind="fluorescence")
    assert recording.key == "estimates/C + estimates/YrA"


def test_denoised_dff_is_recognised_whatever_its_noise_level(tmp_path):
    values, _, background = estimates()
    norms = np.sqrt(np.asarray(values["A"].power(2).sum(axis=0)).ravel())
    values["F_dff"] = 40 * detrended(norms[:, None] * values["C"], background)
    assert np.median(noise_levels(values["F_dff"], frame_rate_hz=RATE)) > 0.05, "ν alone would not tell"
    path = write(tmp_path / "results.hdf5", values)
    recording, _ = only(path)
    assert recording.key == "estimates/C + estimates/YrA"
    assert any("F_dff is denoised" in problem for problem in recording.problems)
    with pytest.raises(InputError, match="noise level ν"):
        open_source(path, key="estimates/F_dff")
    # Without the residuals in the file it is told by the model alone.
    path = write(tmp_path / "more.hdf5", values | {"YrA": None})
    with pytest.raises(FileFormatError, match=r"F_dff is denoised \(ν.*use_residuals=True"):
        open_source(path)


def test_dff_with_noise_is_no_model_even_without_residuals_to_compare(tmp_path):
    values, fluorescence, background = estimates()
    values |= {"F_dff": detrended(fluorescence, background), "YrA": None}
    recording, _ = only(write(tmp_path / "results.hdf5", values))
    assert recording.key == "estimates/F_dff"


@pytest.mark.parametrize("key", ["estimates/C", "/estimates/S", "C", "S"])
def test_denoised_traces_are_refused(tmp_path, key):
    path = write(tmp_path / "results.hdf5", estimates()[0])
    with pytest.raises(InputError, match="denoised, so its noise level ν would be near 0"):
        open_source(path, key=key)


@pytest.mark.parametrize("residuals", [None, 0.0, np.zeros((N, T))])
def test_c_alone_is_refused(tmp_path, residuals):
    path = write(tmp_path / "results.hdf5", estimates()[0] | {"YrA": residuals})
    with pytest.raises(FileFormatError, match=r"(denoised|no noise) .*ν near 0.*use_residuals=True"):
        open_source(path)


def test_residuals_may_be_called_r_and_are_no_traces(tmp_path):
    values, fluorescence, _ = estimates()
    values |= {"R": values["YrA"], "YrA": None}
    recording, traces = only(write(tmp_path / "results.hdf5", values))
    assert recording.key == "estimates/C + estimates/R"
    np.testing.assert_allclose(np.diff(traces[1, :5]), np.diff(fluorescence[1, :5]), atol=0.01)
    with pytest.raises(InputError, match="residuals alone"):
        open_source(tmp_path / "results.hdf5", key="estimates/R")


@pytest.mark.parametrize("lost", [{"b": None, "f": None}, {"A": None}, {"b": np.zeros((PIXELS, 0))}])
def test_without_a_background_f0_is_that_of_the_traces_alone_and_that_is_said(tmp_path, lost):
    values, fluorescence, _ = estimates()
    path = write(tmp_path / "results.hdf5", values | lost)
    for options in ({}, {"key": "C+YrA"}):
        recording, traces = only(path, **options)
        assert recording.kind == "fluorescence"
        assert any("no background (A with b and f)" in problem for problem in recording.problems)
    if lost != {"A": None}:
        np.testing.assert_allclose(traces, fluorescence, rtol=1e-12)


def test_what_may_be_detrended_only_is_named(tmp_path):
    values, fluorescence, _ = estimates()
    values |= {"b": None, "f": None, "F_dff": fluorescence - np.percentile(fluorescence, 8, axis=1)[:, None]}
    path = write(tmp_path / "results.hdf5", values)
    for options in ({}, {"key": "estimates/F_dff"}):
        recording, _ = only(path, **options)
        assert (recording.kind, recording.key) == ("dff", "estimates/F_dff")
        assert any("only detrended" in problem for problem in recording.problems)


def test_one_photon_background(tmp_path):
    values, fluorescence, _ = estimates()
    values |= {"b": None, "f": None, "b0": np.full(PIXELS, 7.0)}
    recording, traces = only(write(tmp_path / "results.hdf5", values))
    norms = np.sqrt(np.asarray(values["A"].power(2).sum(axis=0)).ravel())
    level = 7.0 * np.asarray(values["A"].sum(axis=0)).ravel() / norms
    np.testing.assert_allclose(traces, fluorescence + level[:, None], rtol=1e-9)
    assert any("1-photon" in problem for problem in recording.problems)


@pytest.mark.parametrize("stored", ["absent", None, float("nan"), 3])
def test_accepted_components_may_be_missing(tmp_path, stored):
    values = estimates()[0]
    values["idx_components"] = stored
    if stored == "absent":
        del values["idx_components"]
    recording, _ = only(write(tmp_path / "results.hdf5", values))
    assert recording.is_cell is None
    assert any("idx_components" in problem for problem in recording.problems)


def test_accepted_components_may_be_none_or_impossible(tmp_path):
    recording, _ = only(write(tmp_path / "a.hdf5", estimates()[0] | {"idx_components": np.zeros(0, int)}))
    assert not recording.is_cell.any()
    assert any("none of the components" in problem for problem in recording.problems)
    path = write(tmp_path / "b.hdf5", estimates()[0] | {"idx_components": np.array([0, N])})
    with pytest.raises(FileFormatError, match="saved after a selection"):
        open_source(path)


def test_spikes_of_an_online_run_may_be_longer(tmp_path):
    values = estimates()[0]
    values["S"] = np.zeros((N, T + 300))
    _, traces = only(write(tmp_path / "results.hdf5", values))
    assert traces.shape == (N, T)


@pytest.mark.parametrize("with_dff", [False, True])
def test_zeros_after_the_end_of_an_online_run_are_cut(tmp_path, with_dff):
    values, fluorescence, background = estimates()
    _, expected = only(write(tmp_path / "whole.hdf5", values))
    if with_dff:
        values["F_dff"] = expected = detrended(fluorescence, background)
    padded = {name: np.pad(values[name], ((0, 0), (0, 150))) for name in ("C", "YrA", "f")}
    if with_dff:
        padded["F_dff"] = np.pad(values["F_dff"], ((0, 0), (0, 150)))
    recording, traces = only(write(tmp_path / "results.hdf5", values | padded))
    assert traces.shape == (N, T)
    np.testing.assert_allclose(traces, expected, rtol=1e-12)
    assert any("last 150 of 1350 frames are 0" in problem for problem in recording.problems)
    assert recording.native["n_frames"] == T + 150


def test_lengths_that_differ_are_named(tmp_path):
    values, fluorescence, _ = estimates()
    values["YrA"] = values["YrA"][:, :-7]
    recording, traces = only(write(tmp_path / "a.hdf5", values))
    assert traces.shape == (N, T - 7)
    np.testing.assert_allclose(np.diff(traces[1, -5:]), np.diff(fluorescence[1, -12:-7]), atol=0.01)
    assert any("the first 1193 are used" in problem for problem in recording.problems)
    path = write(tmp_path / "b.hdf5", values | {"YrA": values["YrA"][:4]})
    with pytest.raises(FileFormatError, match="6 components and YrA 4"):
        open_source(path)
    path = write(tmp_path / "c.hdf5", estimates()[0] | {"f": estimates()[0]["f"][:, :-50]})
    with pytest.raises(FileFormatError, match="f has 1150 frames"):
        open_source(path)


def test_frame_rates_have_been_stored_in_several_ways(tmp_path):
    values = estimates()[0]
    none = {"params/data/fr": None, "params/data/decay_time": None}
    path = write(tmp_path / "none.hdf5", values, **none)
    recording, _ = only(path)
    assert recording.frame_rate_hz is None
    assert any("no frame rate" in problem for problem in recording.problems)
    assert only(write(tmp_path / "a.hdf5", values, **none | {"params/fr": 12.5}))[0].frame_rate_hz == 12.5
    assert (
        only(write(tmp_path / "b.hdf5", values, **none | {"params": '{"data": {"fr": 7.5}}'}))[0].frame_rate_hz == 7.5
    )
    with h5py.File(write(tmp_path / "c.hdf5", values, **none), "r+") as file:
        file.create_group("params/data").attrs["fr"] = 9
    assert only(tmp_path / "c.hdf5")[0].frame_rate_hz == 9
    assert only(write(tmp_path / "d.hdf5", values, **{"params/data/fr": MISSING}))[0].frame_rate_hz is None


def test_other_groups_dense_footprints_and_sparse_backgrounds(tmp_path):
    values = estimates()[0]
    _, expected = only(write(tmp_path / "a.hdf5", values, **{"params/data/fr": 11.0}))
    dense = values | {"A": values["A"].toarray(), "b": sparse.csc_matrix(values["b"])}
    recording, traces = only(write(tmp_path / "b.hdf5", dense, group="cnmf/estimates", **{"cnmf/params/data/fr": 11.0}))
    np.testing.assert_allclose(traces, expected, rtol=1e-9)
    assert recording.frame_rate_hz == 11.0
    assert recording.native["group"] == "cnmf/estimates"


def test_damaged_files_are_named_and_closed(tmp_path):
    path = write(tmp_path / "results.hdf5", estimates()[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FileFormatError, match=r"results\.hdf5: not a readable HDF5"):
        open_source(path, format="caiman")
    path = write(tmp_path / "empty.hdf5", {"A": None, "C": np.zeros((N, T)), "YrA": np.zeros((N, T))})
    with pytest.raises(FileFormatError):
        open_source(path, key="C+YrA")
    path.unlink()  # fails on Windows if it is still open
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.ones((3, 4))
    assert not caiman.recognises(other)
    with pytest.raises(FileFormatError, match="no group estimates"):
        open_source(other, format="caiman")


@pytest.mark.parametrize("options", [{"transposed": True}, {"neuropil_key": "b"}])
def test_options_that_mean_nothing_here(tmp_path, options):
    with pytest.raises(InputError, match="leave out"):
        open_source(write(tmp_path / "results.hdf5", estimates()[0]), **options)
