"""The same batch, and the same prediction, on a Dask cluster of two worker processes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from batches import MODEL, assert_same, results, write_sessions

import cascade_rt as crt
from cascade_rt.batch import find_sessions, run_batch
from cascade_rt.errors import CascadeWarning, InputError
from cascade_rt.session import InferOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascade_rt.batch import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
OPTIONS = InferOptions(model=MODEL, frame_rate_hz=30.0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as made:
            yield made


def test_a_batch_on_the_cluster_equals_one_on_this_machine(cluster: Any, tmp_path: Path) -> None:
    write_sessions(tmp_path, 20)
    sessions = find_sessions([tmp_path], OPTIONS).sessions
    here = run_batch(sessions, out=tmp_path / "here", report=False)
    there = run_batch(sessions, out=tmp_path / "there", scheduler=cluster.scheduler_address, report=False)
    assert (here.count("done"), there.count("done")) == (20, 20)
    assert_same(results(tmp_path / "here"), results(tmp_path / "there"))
    again = run_batch(sessions, out=tmp_path / "there", scheduler=cluster.scheduler_address, report=False)
    assert again.count("skipped") == 20


def test_workers_that_are_killed_lose_nothing(cluster: Any, tmp_path: Path) -> None:
    write_sessions(tmp_path, 8)
    sessions = find_sessions([tmp_path], OPTIONS).sessions
    run_batch(sessions, out=tmp_path / "here", report=False)

    def kill(outcome: Outcome, finished: int, total: int) -> None:
        if finished in (2, 5):
            psutil.Process(list(cluster.workers.values())[finished % 2].pid).kill()

    there = tmp_path / "there"
    summary = run_batch(sessions, out=there, scheduler=cluster.scheduler_address, report=False, progress=kill)
    # What a worker had finished when it was killed is found finished by the next one.
    assert summary.count("done") + summary.count("skipped") == 8, [outcome.reason for outcome in summary.outcomes]
    assert_same(results(there), results(tmp_path / "here"))


def test_predict_on_the_cluster(cluster: Any) -> None:
    import dask.array as da
    from distributed import Client

    dff = crt.simulate(10, 40.0, 30.0, indicator="GCaMP8m", seed=1).dff
    model = crt.load_model(MODEL)
    with Client(cluster):
        planned = crt.predict(da.from_array(dff, chunks=(3, 500)), model, frame_rate_hz=30.0)
        np.testing.assert_allclose(planned.compute(), crt.predict(dff, model, frame_rate_hz=30.0), atol=1e-6)


def test_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade_rt.batch.cluster.CONNECT_S", 0.5)
    write_sessions(tmp_path, 1)
    with pytest.raises(InputError, match="no Dask scheduler answers there"):
        run_batch(find_sessions([tmp_path], OPTIONS).sessions, out=tmp_path, scheduler="tcp://127.0.0.1:9")


def test_warnings_are_those_of_predict() -> None:
    da = pytest.importorskip("dask.array", reason="dask is not installed")
    dff = np.zeros((2, 200), np.float32)
    with pytest.warns(CascadeWarning, match="NaN throughout"):
        crt.predict(da.from_array(dff), crt.load_model(MODEL), frame_rate_hz=30.0).compute()
