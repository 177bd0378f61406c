"""The doctor's checks say what is off and what to do."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_rt import health
from cascade_rt.errors import CascadeError


def versions(monkeypatch: pytest.MonkeyPatch, **absent_or_present: str | None) -> None:
    known = {name.replace("-", "_"): "1.0" for name in health.NEEDED} | absent_or_present
    monkeypatch.setattr(health, "_version", lambda name: known.get(name.replace("-", "_")))


def test_missing_packages_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, h5py=None, rich=None)
    check = health.check_packages()
    assert check.status == "failed"
    assert "missing: h5py, rich" in check.seen
    assert "pip install" in check.advice


def test_the_gpu_package_replaces_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, onnxruntime=None, onnxruntime_gpu="1.0")
    assert health.check_packages().status == "ok"
    versions(monkeypatch, onnxruntime_gpu="1.0")
    check = health.check_packages()
    assert check.status == "look"
    assert "uninstall both" in check.advice


def test_slow_sleep_is_worth_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1e-6
        return now[0]

    def sleep(seconds: float) -> None:
        now[0] += seconds + 0.015

    monkeypatch.setattr(health.time, "perf_counter", clock)
    monkeypatch.setattr(health.time, "sleep", sleep)
    check = health.check_timer()
    assert check.status == "look"
    assert check.values["sleep_late_p50_ms"] == pytest.approx(15.0, abs=0.1)
    assert check.advice


def test_sockets() -> None:
    check = health.check_loopback(n_messages=20)
    assert check.status in ("ok", "look")
    assert 0 < check.values["round_trip_p50_ms"] <= check.values["round_trip_p99_ms"]


@pytest.mark.parametrize(
    ("difference", "same"),
    [(1e-3, True), (1e-7, False), (float("nan"), True)],
)
def test_wrong_numbers_fail(monkeypatch: pytest.MonkeyPatch, difference: float, same: bool) -> None:
    prob = np.random.default_rng(0).random((40, 900)).astype(np.float32)
    monkeypatch.setattr(health, "_live_and_offline", lambda *args: (prob, difference, same))
    check = health.check_self()
    assert check.status == "failed"
    assert "cannot be trusted" in check.advice


def test_values_without_any_relation_to_the_spikes_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    prob = np.random.default_rng(0).random((40, 900)).astype(np.float32)
    monkeypatch.setattr(health, "_live_and_offline", lambda *args: (prob, 1e-7, True))
    check = health.check_self()
    assert abs(check.values["correlation"]) < 0.2
    assert check.status == "failed"


def test_a_self_test_that_cannot_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise CascadeError("the model is gone")

    monkeypatch.setattr(health, "_live_and_offline", broken)
    check = health.check_self()
    assert (check.status, check.seen) == ("failed", "the model is gone")


def test_without_models_nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    from cascade_rt import bundle

    monkeypatch.setattr(bundle, "list_models", list)
    assert health.check_models().status == "failed"
    assert health.check_device().seen == "not tried, there is no model"
