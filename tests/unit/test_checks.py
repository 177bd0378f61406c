"""What every entry point asks of its arguments: shape, numbers, frame rate, noise levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from networks import write_conditioned

from cascade_rt.bundle import read_spec
from cascade_rt.checks import check_frame_rate, check_matrix, check_noise_levels
from cascade_rt.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from cascade_rt.chunks import ModelSpec


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A model for 30 Hz; models for 131 and 1317 Hz are installed, rates that no shipped model is near to."""
    installed = tmp_path / "installed"
    monkeypatch.setenv("CASCADE_RT_MODELS", str(installed))
    write_conditioned(installed / "AT_131_HZ", frame_rate_hz=131.0)
    write_conditioned(installed / "AT_1317_HZ", frame_rate_hz=1317.0)
    return read_spec(write_conditioned(tmp_path / "MINE"))


# ------------------------------------------------------------------------------------------------------- matrix


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", "u1", "<i2", "<i8"])
def test_arrays_of_numbers_pass_as_they_are(dtype: str) -> None:
    array = np.zeros((2, 3), dtype)
    assert check_matrix(array, "dff") is array


def test_nested_lists_become_arrays() -> None:
    np.testing.assert_array_equal(check_matrix([[1, 2.5], [3, 4]], "dff"), [[1, 2.5], [3, 4]])


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (0, 5), (5, 0)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        check_matrix(np.zeros(shape), "my traces")
    assert "my traces" in str(caught.value)
    assert str(shape) in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize("values", [np.zeros((2, 2), complex), np.zeros((2, 2), bool), [["a", "b"]], [[None, 1]]])
def test_what_holds_no_real_numbers_is_refused(values: Any) -> None:
    with pytest.raises(InputError, match="expected real numbers"):
        check_matrix(values, "dff")


def test_ragged_lists_are_refused() -> None:
    with pytest.raises(InputError):
        check_matrix([[1.0, 2.0], [3.0]], "dff")


# --------------------------------------------------------------------------------------------------- frame rate


@pytest.mark.parametrize("rate", [28.5, 30, 30.0, 31.5, np.float32(29.97), 1500 / 49])
def test_rates_within_5_percent_pass(rate: float, spec: ModelSpec) -> None:
    assert check_frame_rate(rate, spec, allow_mismatch=False) == float(rate)


@pytest.mark.parametrize(("rate", "nearest"), [(120.0, "AT_131_HZ"), (140, "AT_131_HZ"), (9e3, "AT_1317_HZ")])
def test_other_rates_are_refused_naming_the_nearest_model(rate: float, nearest: str, spec: ModelSpec) -> None:
    with pytest.raises(InputError) as caught:
        check_frame_rate(rate, spec, allow_mismatch=False)
    for word in (f"{rate:g} Hz", "'MINE'", "30 Hz", nearest, "--resample", "allow_rate_mismatch=True"):
        assert word in str(caught.value)


@pytest.mark.parametrize("rate", [28.4, 31.6])
def test_the_tolerance_ends_at_5_percent(rate: float, spec: ModelSpec) -> None:
    with pytest.raises(InputError):
        check_frame_rate(rate, spec, allow_mismatch=False)
    assert check_frame_rate(rate, spec, allow_mismatch=True) == rate


@pytest.mark.parametrize("rate", [0, -30, float("nan"), float("inf")])
@pytest.mark.parametrize("allow", [False, True])
def test_impossible_rates_are_refused_whatever_was_allowed(rate: float, allow: bool, spec: ModelSpec) -> None:
    with pytest.raises(InputError, match="expected a positive number"):
        check_frame_rate(rate, spec, allow_mismatch=allow)


def test_a_damaged_installed_model_does_not_hide_the_real_error(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "installed" / "AT_131_HZ" / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="AT_1317_HZ"):
        check_frame_rate(1300.0, spec, allow_mismatch=False)


# ------------------------------------------------------------------------------------------------- noise levels


def test_noise_levels_that_are_not_positive_are_unknown() -> None:
    given = np.array([1.5, 0.0, -1.0, np.nan, np.inf, -np.inf, 1e-9])
    given.flags.writeable = False
    seen = check_noise_levels(given, 7)
    np.testing.assert_array_equal(seen, [1.5, np.nan, np.nan, np.nan, np.nan, np.nan, 1e-9])
    assert seen.dtype == np.float64


def test_noise_levels_are_copied() -> None:
    given = np.array([1.0, 2.0])
    seen = check_noise_levels(given, 2)
    seen[0] = 9
    assert given[0] == 1.0


def test_one_noise_level_serves_all_neurons() -> None:
    np.testing.assert_array_equal(check_noise_levels(2, 3), [2.0, 2.0, 2.0])


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), (1, 3), (0,)])
def test_another_number_of_noise_levels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        check_noise_levels(np.ones(shape), 3)
    assert str(shape) in str(caught.value)
    assert "(3,)" in str(caught.value)


@pytest.mark.parametrize("given", [["a", "b"], [1 + 2j, 1.0], {"nu": 1}])
def test_noise_levels_that_are_no_numbers_are_refused(given: Any) -> None:
    with pytest.raises(InputError, match="noise_levels"):
        check_noise_levels(given, 2)


def test_the_chosen_model_is_not_recommended_again(spec: ModelSpec) -> None:
    with pytest.raises(InputError, match=r"No installed model is nearer than 'MINE'.*--download"):
        check_frame_rate(27.0, spec, allow_mismatch=False)
