"""Spike probabilities in the NWB file that the traces came from.

For each plane one RoiResponseSeries ``SpikeProbability`` goes directly into the processing module ``ophys``: the
schema has containers for fluorescence and for ΔF/F, and it is neither, so that nobody takes it for either. ν goes into
a small table ``SpikeInferenceNoise`` beside it. A column of the PlaneSegmentation would change a table of the source,
could hold one result only, and planes that share a table would have to share the column too.
"""

from __future__ import annotations

import os
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from cascade_rt.errors import FileFormatError, InputError, OutputExistsError
from cascade_rt.formats import Recording, Source, open_source
from cascade_rt.formats.extras import require
from cascade_rt.lazy import Matrix

from .layout import scratch_file, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

__all__ = ["MODULE", "NOISE_TABLE", "SERIES", "PlaneResult", "write_nwb"]

MODULE, SERIES, NOISE_TABLE = "ophys", "SpikeProbability", "SpikeInferenceNoise"
UNIT = "expected spikes per frame"
#: Pieces in the file: small enough to read one neuron or one minute, large enough to compress.
CHUNK_FRAMES, CHUNK_ROIS = 4096, 32
#: Values held in memory while writing.
BUFFER_VALUES = 8_000_000


@runtime_checkable
class PlaneResult(Protocol):
    """What is written for one plane.

    ``metadata`` may have ``model``, ``smoothing_s``, ``causal_kernel``, ``lookahead_frames``, ``alignment``,
    ``threshold``, ``frame_rate_hz`` and ``version``, and more, which is stored as well. If there is an attribute
    ``recording``, it is where the plane came from; else that is found by ``name``.
    """

    @property
    def name(self) -> str: ...
    @property
    def spike_prob(self) -> Matrix: ...
    @property
    def noise_levels(self) -> NDArray[np.float64] | None: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


class _Plane(NamedTuple):
    suffix: str
    spike_prob: Matrix
    noise_levels: NDArray[np.float64]
    recording: Recording
    metadata: dict[str, Any]

    @property
    def series(self) -> str:
        return SERIES + self.suffix

    @property
    def table(self) -> str:
        return NOISE_TABLE + self.suffix


def write_nwb(
    source: Source | str | os.PathLike[str],
    target: str | os.PathLike[str] | None,
    results: Iterable[PlaneResult],
    *,
    in_place: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write spike probabilities into a copy of an NWB file, or into the file itself.

    Each plane's ``SpikeProbability`` (``SpikeProbability_NAME``, where there are several) is (n_frames, n_rois), of the
    regions of interest of the series that was read, in their order; sample *t* has the time of that series' sample
    *t*. It is NaN where undefined. ``comments`` hold the metadata as JSON. ``SpikeInferenceNoise`` has the columns
    ``roi`` and ``noise_level`` (ν).

    The file is always completed under another name and put in its place at the end, ``in_place`` too: appending to an
    HDF5 file that is then interrupted can cost the whole file. This needs room for a copy.

    Parameters
    ----------
    source : Source or path
        The NWB file, or what :func:`cascade_rt.open_source` made of it.
    target : path or None
        By default ``NAME_cascade.nwb`` beside the source.
    results : Result or sequence of PlaneResult
        ``spike_prob`` (n_neurons, n_frames), read in blocks.
    in_place : bool
        Put the new file in the place of the source.
    overwrite : bool
        Replace ``target`` if it exists, and results of an earlier call that the source holds. The room that these took
        up is not freed.

    Returns
    -------
    Path
        The file with the results.

    Raises
    ------
    OutputExistsError
        The target exists, or the source holds results already.
    FileFormatError
        The results do not fit the source, or pynwb cannot read it.
    InputError
        pynwb is missing; or ``in_place`` with a target.
    """
    require("pynwb", "nwb", "writing NWB files")
    path = source.path if isinstance(source, Source) else Path(source)
    if in_place and target is not None:
        raise InputError(f"in_place=True writes into {path}: leave out the target {target}")
    goal = path if in_place else path.with_name(f"{path.stem}_cascade.nwb") if target is None else Path(target)
    same = goal.exists() and goal.resolve() == path.resolve()
    if same and not in_place:
        raise OutputExistsError(f"{goal} is the source itself: choose another name, or allow in_place=True")
    if goal.exists() and not (overwrite or in_place):
        raise OutputExistsError(f"{goal} exists: choose another name, or allow --overwrite (overwrite=True)")
    with _opened(source) as opened:
        planes = _planes(opened, results)
    _check_links(path, goal)
    # A link is followed, so that it is the file behind it that gets the results.
    goal_file = goal.resolve()
    scratch = scratch_file(goal_file)
    try:
        shutil.copyfile(path, scratch)
        _make_room(scratch, path, planes, overwrite=overwrite)
        _add(scratch, path, planes)
        if in_place:
            shutil.copymode(path, scratch)
        try:
            os.replace(scratch, goal_file)  # noqa: PTH105 - the name is that of a file, not a Path to go on with
        except PermissionError as error:
            raise InputError(
                f"{goal} cannot be replaced while a program has it open: close it first ({error})"
            ) from error
    finally:
        scratch.unlink(missing_ok=True)
    return goal


# ------------------------------------------------------------------------------------------------ what goes where


@contextmanager
def _opened(source: Source | str | os.PathLike[str]) -> Iterator[Source]:
    if isinstance(source, Source):
        yield source
        return
    with open_source(source, format="nwb") as opened:
        yield opened


def _planes(source: Source, results: Iterable[PlaneResult]) -> list[_Plane]:
    common = dict(getattr(results, "metadata", None) or {})
    listed = list(results)
    if not listed:
        raise InputError("there are no results to write: expected one for each plane")
    planes = [_plane(source, one, common, several=len(source.recordings) > 1) for one in listed]
    names = [plane.series for plane in planes]
    if len(set(names)) < len(names):
        raise InputError(f"several results have the same name ({', '.join(names)}): name each after its plane")
    return planes


def _plane(source: Source, result: PlaneResult, common: Mapping[str, Any], *, several: bool) -> _Plane:
    recording: Recording | None = getattr(result, "recording", None)
    if recording is None:
        recording = next((one for one in source.recordings if one.name == result.name), None)
    if recording is None:
        names = ", ".join(repr(one.name) for one in source.recordings)
        raise FileFormatError(f"{source.path} has no plane {result.name!r}, which the result has; it has {names}")
    native = recording.native
    expected = (recording.n_neurons, recording.n_frames)
    shape = tuple(int(n) for n in result.spike_prob.shape)
    if shape != expected:
        raise FileFormatError(
            f"{source.path}: {native.get('series')} has {expected[0]} neurons and {expected[1]} frames, the result "
            f"{shape[0]} and {shape[1]}: it was made from another recording, or at another frame rate"
        )
    if native.get("table") is None or native.get("rows") is None:
        raise FileFormatError(
            f"{source.path}: {native.get('series')} does not tell which regions of interest (PlaneSegmentation) it is "
            "of, so that results cannot be linked to them: export the result to another format"
        )
    levels = result.noise_levels
    noise = np.full(expected[0], np.nan) if levels is None else np.asarray(levels, np.float64)
    if noise.shape != expected[:1]:
        raise FileFormatError(f"noise_levels has shape {noise.shape}: expected ({expected[0]},)")
    suffix = "_" + (result.name or recording.name).replace("/", "_").replace(":", "_") if several else ""
    metadata = {**common, **result.metadata, "source_series": native["series"]}
    rate = recording.frame_rate_hz or metadata.get("frame_rate_hz") or getattr(result, "frame_rate_hz", None)
    if rate is None and recording.timestamps is None:
        raise InputError(f"{source.path}: {native['series']} has neither times nor a frame rate: give frame_rate_hz")
    metadata["frame_rate_hz"] = rate
    return _Plane(suffix, result.spike_prob, noise, recording, metadata)


def _check_links(path: Path, goal: Path) -> None:
    """Links to other files are relative to the folder of the file that has them."""
    import h5py

    if goal.resolve().parent == path.resolve().parent:
        return
    found: list[str] = []

    def look(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink) and not Path(link.filename).is_absolute():
            found.append(f"/{name} -> {link.filename}")

    with h5py.File(path, "r") as file:
        file.visititems_links(look)
    if found:
        raise InputError(
            f"{path} has links to files beside it ({found[0]}), which a copy in another folder would not find: write "
            "into its own folder"
        )


def _make_room(scratch: Path, path: Path, planes: list[_Plane], *, overwrite: bool) -> None:
    """Take out what an earlier call wrote, if that is allowed."""
    import h5py

    with h5py.File(scratch, "r+") as file:
        there = [
            full
            for plane in planes
            for name in (plane.series, plane.table)
            if (full := f"processing/{MODULE}/{name}") in file
        ]
        if there and not overwrite:
            raise OutputExistsError(
                f"{path} holds results already (/{there[0]}): write into the file that it was copied from, or allow "
                "--overwrite (overwrite=True), which takes them out"
            )
        for full in there:
            del file[full]


# ---------------------------------------------------------------------------------------------------- writing


def _add(scratch: Path, path: Path, planes: list[_Plane]) -> None:
    from pynwb import NWBHDF5IO

    try:
        # pynwb warns of what others did not write as the schema has it, for which nobody can do anything here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with NWBHDF5IO(str(scratch), "r+", load_namespaces=True) as io:
                file = io.read()
                module = (
                    file.processing[MODULE]
                    if MODULE in file.processing
                    else file.create_processing_module(name=MODULE, description="optical physiology processed data")
                )
                for plane in planes:
                    _add_plane(io, file, module, plane)
                io.write(file)
    except FileFormatError:
        raise
    except Exception as error:
        raise FileFormatError(f"{path}: pynwb cannot add results to this file: {error}") from error


def _add_plane(io: Any, file: Any, module: Any, plane: _Plane) -> None:
    from hdmf.backends.hdf5.h5_utils import H5DataIO
    from hdmf.common import DynamicTable, DynamicTableRegion, VectorData
    from pynwb.ophys import RoiResponseSeries

    native = plane.recording.native
    series = _find(io, file, native["series_id"], native["series"])
    table = _find(io, file, native["table_id"], native["table"])
    rows = [int(row) for row in native["rows"]]
    n_samples = int(native["n_samples"])
    described = f"regions of interest of {native['series']}, in the same order"
    if plane.recording.timestamps is not None:
        when: dict[str, Any] = {"timestamps": series}
    else:
        when = {"rate": float(plane.metadata["frame_rate_hz"]), "starting_time": float(native["starting_time"])}
    blocks = _blocks(plane.spike_prob, n_samples)
    module.add(
        RoiResponseSeries(
            name=plane.series,
            description=_description(plane),
            comments=to_json(plane.metadata),
            data=H5DataIO(blocks, compression="gzip", compression_opts=1, shuffle=True),
            rois=DynamicTableRegion(name="rois", data=rows, description=described, table=table),
            unit=UNIT,
            **when,
        )
    )
    module.add(
        DynamicTable(
            name=plane.table,
            description=f"Noise level ν of each trace from which {plane.series} was inferred; NaN where unknown.",
            columns=[
                DynamicTableRegion(name="roi", data=rows, description=described, table=table),
                VectorData(
                    name="noise_level",
                    description="Median over frames of |dF/F[t+1] - dF/F[t]| * 100 / sqrt(frame rate), % * Hz^(-1/2).",
                    data=plane.noise_levels,
                ),
            ],
            id=list(range(len(rows))),
        )
    )


def _find(io: Any, file: Any, identifier: str, path: str) -> Any:
    """Return an object by its identifier, or by its place: files of early releases have no identifiers."""
    if identifier and identifier in file.objects:
        return file.objects[identifier]
    for item in file.objects.values():
        builder = io.manager.get_builder(item)
        if builder is not None and builder.path.removeprefix("root") == path:
            return item
    raise FileFormatError(f"{path} is not found by pynwb: expected a series and a table as the NWB schema has them")


def _description(plane: _Plane) -> str:
    """All that one must know to use the values."""
    known = plane.metadata
    said = [
        f"Spike probabilities: the expected number of spikes in each frame, which may exceed 1, inferred from "
        f"{plane.recording.key or plane.recording.native['series']} by cascade_rt {known.get('version', '')}".rstrip()
    ]
    if known.get("model"):
        said.append(f"Model: {known['model']}")
    if known.get("smoothing_s") is not None:
        kernel = "causal" if known.get("causal_kernel") else "Gaussian"
        said.append(
            f"Smoothing of the spikes that it was trained on: {1000 * known['smoothing_s']:g} ms, {kernel} kernel"
        )
    if known.get("lookahead_frames") is not None:
        said.append(f"Look-ahead: {known['lookahead_frames']} frames")
    if known.get("alignment"):
        said.append(f"Alignment: {known['alignment']}")
    if known.get("threshold"):
        said.append(f"Threshold: {known['threshold']}")
    if known.get("dff"):
        said.append(f"dF/F: {known['dff']}")
    nu = plane.noise_levels[np.isfinite(plane.noise_levels)]
    if nu.size:
        said.append(
            f"Noise level ν: median {np.median(nu):.3g}, {nu.min():.3g} to {nu.max():.3g} % * Hz^(-1/2) ({plane.table})"
        )
    said.append(
        "Sample t has the time of frame t. NaN: undefined, as within half a window of the ends, or not processed"
    )
    return ". ".join(said) + "."


def _blocks(spike_prob: Matrix, n_samples: int) -> Any:
    """(n_frames, n_rois) piece by piece, NaN where the source goes on but the result does not."""
    from hdmf.data_utils import GenericDataChunkIterator

    n_neurons, n_frames = spike_prob.shape
    chunk = (min(n_samples, CHUNK_FRAMES), min(n_neurons, CHUNK_ROIS))
    # Whole neurons as far as possible, since that is how results are stored.
    frames = min(n_samples, chunk[0] * max(1, BUFFER_VALUES // (chunk[0] * chunk[1])))
    rois = min(n_neurons, chunk[1] * max(1, BUFFER_VALUES // (frames * chunk[1])))

    class Blocks(GenericDataChunkIterator):  # type: ignore[misc]
        def _get_data(self, selection: tuple[slice, ...]) -> NDArray[np.float32]:
            columns, rows = (
                slice(*part.indices(size)) for part, size in zip(selection, (n_samples, n_neurons), strict=True)
            )
            block = np.full((columns.stop - columns.start, rows.stop - rows.start), np.nan, np.float32)
            stop = min(columns.stop, n_frames)
            if columns.start < stop:
                block[: stop - columns.start] = np.asarray(spike_prob[rows, columns.start : stop]).T
            return block

        def _get_maxshape(self) -> tuple[int, int]:
            return n_samples, n_neurons

        def _get_dtype(self) -> np.dtype[np.float32]:
            return np.dtype(np.float32)

    return Blocks(buffer_shape=(frames, rois), chunk_shape=chunk)
