"""NWB files as different programs write them, made with pynwb."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RATE = 30.0


@contextmanager
def quiet() -> Iterator[None]:
    """Let pynwb and nwbinspector warn of what these files get wrong on purpose, and of other packages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def ramp(n_frames: int, n_rois: int, start: float = 0.0) -> np.ndarray:
    """(n_frames, n_rois) in which every value is different: frame + 1000 * region."""
    return (start + np.arange(n_frames)[:, None] + 1000.0 * np.arange(n_rois)).astype(np.float32)


@dataclass
class Trace:
    """One RoiResponseSeries, as (n_frames, n_rois), in a container of this type and name (None: in the module)."""

    name: str
    data: np.ndarray
    container: str | None = "Fluorescence"
    kind: str = "Fluorescence"
    table: str = "PlaneSegmentation"
    rows: list[int] | None = None
    module: str = "ophys"
    options: dict[str, Any] = field(default_factory=dict)


def write_file(
    path: Path,
    traces: list[Trace],
    *,
    n_rois: dict[str, int] | int = 4,
    columns: dict[str, Any] | None = None,
    rate: float | None = RATE,
    timestamps: Any = None,
    starting_time: float = 0.0,
    indicator: str = "GCaMP6f",
    imaging_rate: float | None = None,
) -> Path:
    """Write a file; ``n_rois`` of each table, ``columns`` of the first."""
    with quiet():
        _write(path, traces, n_rois, columns or {}, rate, timestamps, starting_time, indicator, imaging_rate)
    return path


def _write(
    path: Path,
    traces: list[Trace],
    n_rois: dict[str, int] | int,
    columns: dict[str, Any],
    rate: float | None,
    timestamps: Any,
    starting_time: float,
    indicator: str,
    imaging_rate: float | None,
) -> None:
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.file import Subject
    from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries

    file = NWBFile(
        session_description="a test of reading and writing",
        identifier="a-test",
        session_start_time=datetime(2024, 5, 1, 12, tzinfo=timezone.utc),
        experimenter=["Doe, Jane"],
        institution="An institute",
        lab="A lab",
        keywords=["calcium"],
        subject=Subject(subject_id="m1", species="Mus musculus", sex="F", age="P90D", description="a mouse"),
    )
    device = file.create_device(name="Microscope", description="a microscope")
    segmentation = ImageSegmentation()
    tables = {}
    for number, (name, size) in enumerate(
        ({"PlaneSegmentation": n_rois} if isinstance(n_rois, int) else n_rois).items()
    ):
        plane = file.create_imaging_plane(
            name=f"ImagingPlane{number}",
            optical_channel=OpticalChannel(name="green", description="green light", emission_lambda=510.0),
            description="layer 2/3",
            device=device,
            excitation_lambda=920.0,
            indicator=indicator,
            location="VISp",
            imaging_rate=imaging_rate or rate or RATE,
        )
        table = segmentation.create_plane_segmentation(
            name=name, description="regions of interest", imaging_plane=plane
        )
        for row in range(size):
            table.add_roi(pixel_mask=[(row, row, 1.0), (row, row + 1, 1.0)], id=100 + row)
        tables[name] = table
    for name, values in columns.items():
        next(iter(tables.values())).add_column(name=name, description="a column", data=values)
    modules: dict[str, Any] = {}
    containers: dict[tuple[str, str], Any] = {}
    first: Any = None
    for one in traces:
        module = modules.get(one.module)
        if module is None:
            module = modules[one.module] = file.create_processing_module(name=one.module, description="processed")
            if len(modules) == 1:
                module.add(segmentation)
        table = tables[one.table]
        if timestamps is None:
            when: dict[str, Any] = {"rate": rate, "starting_time": starting_time}
        else:
            when = {"timestamps": timestamps if first is None else first}
        series = RoiResponseSeries(
            name=one.name,
            data=one.data,
            rois=table.create_roi_table_region(
                region=list(range(len(table)) if one.rows is None else one.rows), description="regions"
            ),
            **{"unit": "a.u.", "description": "responses"} | when | one.options,
        )
        first = series if first is None else first
        if one.container is None:
            module.add(series)
            continue
        key = (one.module, one.container)
        if key not in containers:
            containers[key] = {"Fluorescence": Fluorescence, "DfOverF": DfOverF}[one.kind](name=one.container)
            module.add(containers[key])
        containers[key].add_roi_response_series(series)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(file)


def dff(name: str, data: np.ndarray, **more: Any) -> Trace:
    return Trace(name, data, **{"container": "DfOverF", "kind": "DfOverF"} | more)


def replace(path: Path, name: str, values: np.ndarray) -> Path:
    """Put other values into a dataset, such as pynwb refuses to write nowadays."""
    import h5py

    with h5py.File(path, "r+") as file:
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = values
        file[name].attrs.update(attributes)
    return path
