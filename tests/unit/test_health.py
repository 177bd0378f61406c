"""The doctor's checks say what is off and what to do."""

from __future__ import annotations

import sys
from pathlib import Path

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


# ------------------------------------------------------------------------------------------------- the machine


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /, in which tests write what Linux would tell."""
    monkeypatch.setattr(health, "ROOT", tmp_path)
    monkeypatch.setattr(health.sys, "platform", "linux")
    monkeypatch.setattr(health, "_usable_cores", lambda: 4)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def tell(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def test_a_system_that_tells_nothing_is_no_fault(linux: Path) -> None:
    for check in (health.check_threads(), health.check_power(), health.check_memory(), health.check_clock()):
        assert check.status == "ok", check
        assert check.seen


@pytest.mark.parametrize(
    ("governors", "status"),
    [(["performance"] * 4, "ok"), (["powersave"] * 4, "look"), (["performance", "schedutil"], "look")],
)
def test_a_processor_that_saves_power(linux: Path, governors: list[str], status: str) -> None:
    for number, name in enumerate(governors):
        tell(linux, f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_governor", name + "\n")
    check = health.check_power()
    assert check.status == status
    assert ("cpupower frequency-set -g performance" in check.advice) == (status == "look")
    assert sum(check.values["governors"].values()) == len(governors)


@pytest.mark.parametrize(
    ("told", "status", "seen"),
    [
        ("Power Scheme GUID: 381b4222-f694-41f0-9685-ff5bb260df2e  (Balanced)", "look", "balanced"),
        ("GUID: A1841308-3541-4FAB-BC81-F71556F20B4A", "look", "power saver"),
        ("GUID: 8c5e7fda-e8bf-4a96-9a85-a6e23a8c635c", "ok", "high performance"),
        ("GUID: 00000000-0000  (Mine)", "ok", "Mine"),
    ],
)
def test_the_power_plan_of_windows(monkeypatch: pytest.MonkeyPatch, told: str, status: str, seen: str) -> None:
    monkeypatch.setattr(health.sys, "platform", "win32")
    monkeypatch.setattr(health.shutil, "which", lambda name: sys.executable)
    run = health.subprocess.run
    monkeypatch.setattr(
        health.subprocess, "run", lambda command, **how: run([command[0], "-c", f"print({told!r})"], **how)
    )
    check = health.check_power()
    assert check.status == status
    assert seen in check.seen
    assert ("powercfg /setactive" in check.advice) == (status == "look")
    monkeypatch.setattr(health.shutil, "which", lambda name: None)
    assert health.check_power().status == "ok"


def test_threads_and_cores(linux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--threads 3" in health.check_threads().advice
    tell(linux, "sys/fs/cgroup/cpu.max", "150000 100000")
    check = health.check_threads()
    assert check.status == "look"
    assert "--threads 1" in check.advice
    tell(linux, "sys/fs/cgroup/cpu.max", "max 100000")
    assert health.check_threads().status == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert "unset OMP_NUM_THREADS" in health.check_threads().advice
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(health, "_usable_cores", lambda: 1)
    assert health.check_threads().status == "look"


@pytest.mark.parametrize(("free_kb", "status"), [(8_000_000, "ok"), (1_000_000, "look")])
def test_memory(linux: Path, free_kb: int, status: str) -> None:
    tell(linux, "proc/meminfo", f"MemTotal: 16000000 kB\nMemFree: 5 kB\nMemAvailable: {free_kb} kB\n")
    check = health.check_memory()
    assert check.status == status
    assert check.values["free_gb"] == pytest.approx(free_kb / 1024**2, abs=0.01)
    assert ("ps aux" in check.advice) == (status == "look")


@pytest.mark.parametrize(("source", "status"), [("tsc", "ok"), ("hpet", "look"), ("acpi_pm", "look")])
def test_the_clock(linux: Path, source: str, status: str) -> None:
    tell(linux, "sys/devices/system/clocksource/clocksource0/current_clocksource", source)
    check = health.check_clock()
    assert check.status == status
    assert source in check.seen


def test_other_programs(linux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = [0]

    def sleep(seconds: float) -> None:
        spent[0] += 25
        tell(linux, "proc/17/stat", f"17 (a (b) c) R 1 1 1 0 -1 0 0 0 0 0 {100 + spent[0]} 7 0 0 20 0")

    tell(linux, "proc/17/stat", "17 (a (b) c) R 1 1 1 0 -1 0 0 0 0 0 100 7 0 0 20 0")
    tell(linux, "proc/18/stat", "18 (idle) S 1 1 1 0 -1 0 0 0 0 0 100 7 0 0 20 0")
    now = iter([0.0, 0.5])
    monkeypatch.setattr(health.os, "getloadavg", lambda: (3.0, 1.0, 1.0), raising=False)
    monkeypatch.setattr(health.os, "sysconf", lambda name: 100, raising=False)
    monkeypatch.setattr(health.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(health.time, "sleep", sleep)
    check = health.check_load()
    assert check.status == "look"
    assert check.values["busiest"] == [("a (b) c", 50.0)]
    assert "renice" in check.advice


def test_an_old_zeromq(monkeypatch: pytest.MonkeyPatch) -> None:
    import zmq

    assert health.check_messages().values["hwm"] == 1000
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 1, 4))
    assert "pip install --upgrade pyzmq" in health.check_messages().advice
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 3, 5))
    monkeypatch.setattr(zmq, "has", lambda what: False)
    check = health.check_messages()
    assert check.status == "look"
    assert "encrypted" in check.advice


def test_every_check_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [
        check for check in health.CHECKS if check not in (health.check_self, health.check_models, health.check_device)
    ]
    names = [check().name for check in quick]
    assert len(set(names)) == len(names)
