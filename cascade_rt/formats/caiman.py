"""Results of CaImAn: an HDF5 file into which its objects are dumped, attribute by attribute.

CaImAn splits a movie into ``A @ C + b @ f`` and residuals. ``C`` and ``S`` are denoised; a model of spike inference
needs the noise, which is in the residuals ``YrA`` (or ``R``). The background ``b @ f`` is taken out of ``C``, so that
the baseline of ``C + YrA`` alone is not F0. As CaImAn defines it (``detrend_df_f``), the fluorescence of a component
is ``norm(A) * (C + YrA)``, its background ``A' b f / norm(A)``, and F0 the sum of the baselines of both.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.lazy import LazyMatrix

from .caiman_traces import Background, Fluorescence, read_sparse, to_sparse
from .denoised import noise_left
from .hdf5 import has_signature, open_hdf5
from .hierarchy import positive_number, text
from .recording import Kind, ReadOptions, Recording, Source, check_traces

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["open_file", "recognises"]

NAME = "caiman"
TITLE = "CaImAn file"
WHAT = "the .hdf5 file of cnm.save()"

#: Groups in which the estimates have been stored, the usual one first.
GROUPS = ("estimates", "cnmf/estimates", "cnm/estimates")
#: Key of the sum from which ΔF/F is computed, and names that are refused.
SUM = "C+YrA"
DENOISED = ("C", "S")
#: Seconds over which the background is summarised; frames, where the frame rate is unknown.
BACKGROUND_S, BACKGROUND_FRAMES = 30.0, 900
#: What to do about a file without what is needed.
ADVICE = (
    "In CaImAn, run cnm.estimates.detrend_df_f(use_residuals=True) and cnm.save() again, with the estimates A, b, f, C "
    "and YrA kept"
)


def recognises(path: Path) -> bool:
    """Whether it is an HDF5 file with CaImAn's estimates."""
    if not path.is_file() or not has_signature(path):
        return False
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return _group_name(file) is not None
    except OSError:
        return False


def open_file(path: Path, options: ReadOptions) -> Source:
    """Open a CaImAn file: ``F_dff`` if it has noise and a background, else ``C + YrA`` with the background's level."""
    if options.transposed or options.neuropil_key is not None:
        raise InputError(
            f"{path}: CaImAn stores (components, frames) and no neuropil; leave out transposed and neuropil"
        )
    with ExitStack() as stack:
        file = open_hdf5(path, stack)
        name = _group_name(file)
        if name is None:
            raise FileFormatError(
                f"{path}: has no group estimates with C, as CaImAn writes; it holds {', '.join(file)}"
            )
        try:
            recording = _Reader(path, file, name, options).recording()
        except (FileFormatError, InputError):
            raise
        except Exception as error:
            raise FileFormatError(f"{path}: the estimates cannot be read, the file is damaged: {error}") from error
        close = stack.pop_all().close
    return Source(path=path, format=NAME, title=TITLE, recordings=(recording,), files=(path,), on_close=close)


class _Reader:
    """Decides on the traces of one file, and collects what to say about it."""

    def __init__(self, path: Path, file: Any, group: str, options: ReadOptions) -> None:
        self.path = path
        self.group = group
        self.estimates = file[group]
        self.options = options
        self.rate = _frame_rate(file, group)
        self.facts: list[str] = []
        self.problems: list[str] = []
        self.c: Any = self._matrix("C")
        self.residual_name = next((name for name in ("YrA", "R") if self._matrix(name) is not None), None)
        self.residuals: Any = None if self.residual_name is None else self._matrix(self.residual_name)
        if self.c is not None and self.residuals is not None and self.c.shape[0] != self.residuals.shape[0]:
            raise FileFormatError(
                f"{path}: C has {self.c.shape[0]} components and {self.residual_name} {self.residuals.shape[0]}: "
                "expected as many; save the file again from one CaImAn object"
            )

    def recording(self) -> Recording:
        key = self._key()
        if key == "F_dff":
            traces, kind, n_stored = self._dff()
        elif key == SUM:
            traces, kind, n_stored = self._sum()
        else:
            traces, kind = check_traces(self.estimates[key], self.path, key), self.options.kind or "dff"
            traces, n_stored = LazyMatrix(traces), traces.shape[1]
        if self.rate is None:
            self.problems.append("the file tells no frame rate (params/data/fr)")
        else:
            self.facts.append(f"frame rate {self.rate:g} Hz from CaImAn's parameters, where 30 is the default")
        n_components = int(traces.shape[0])
        return Recording(
            traces=traces,
            path=self.path,
            kind=kind,
            key=" + ".join(f"{self.group}/{part}" for part in ("C", self.residual_name))
            if key == SUM
            else f"{self.group}/{key}",
            frame_rate_hz=self.rate,
            is_cell=self._is_cell(n_components),
            facts=tuple(self.facts),
            problems=tuple(self.problems),
            native={"group": self.group, "n_components": n_components, "n_frames": int(n_stored)},
        )

    # --- which array ---------------------------------------------------------------------------------------

    def _key(self) -> str:
        key = self.options.key
        if key is not None:
            plain = key.replace(" ", "").strip("/").replace(f"{self.group}/", "")
            if plain in (SUM, f"C+{self.residual_name}"):
                return SUM
            if plain in DENOISED:
                raise InputError(
                    f"{self.path}: {key!r} is denoised, so its noise level ν would be near 0 and the result "
                    f"meaningless: models need the noise of the recording. Leave out the key; C + YrA or F_dff are "
                    "used as far as the file has them"
                )
            if plain in ("YrA", "R"):
                raise InputError(f"{self.path}: {key!r} holds residuals alone; give {SUM!r}, or leave out the key")
            if self._matrix(plain) is None:
                raise FileFormatError(f"{self.path}: has no array {key!r}; its estimates hold {self._listed()}")
            return plain
        reasons: list[str] = []
        usable: list[str] = []
        for name, why_not in (("F_dff", self._why_not_dff), (SUM, self._why_not_sum)):
            if self.options.kind != ("fluorescence" if name == "F_dff" else "dff"):
                reason = why_not()
                reasons += [reason] if reason else []
                usable += [] if reason else [name]
        if not usable:
            raise FileFormatError(f"{self.path}: {'; '.join(reasons)}. {ADVICE}; or name an array with key=…")
        # Without the background that divides it, F_dff is only detrended; C + YrA may have one of another kind (b0).
        best = SUM if SUM in usable and self._background is not None and not self._had_background() else usable[0]
        if best == SUM and reasons and self._matrix("F_dff") is not None:
            self.problems.append(f"{reasons[0]}; C + {self.residual_name} is used in its place")
        return best

    def _why_not_dff(self) -> str | None:
        stored = self._matrix("F_dff")
        if stored is None:
            return "it holds no F_dff"
        left = noise_left(stored, self.c, self.residuals, self.rate)
        if left.denoised:
            return (
                f"F_dff is denoised (ν = {left.nu:.3f}, computed from C without the residuals), which no model can use"
            )
        return None

    def _why_not_sum(self) -> str | None:
        if self.c is None:
            return "it holds no C"
        if self.residuals is None:
            return "it holds C without the residuals YrA: C alone is denoised (ν near 0), which no model can use"
        if noise_left(self._added(), self.c, None, self.rate).denoised:
            return f"C + {self.residual_name} has no noise (ν near 0): the residuals are empty"
        return None

    # --- the traces ----------------------------------------------------------------------------------------

    def _dff(self) -> tuple[Any, Kind, int]:
        stored = self._matrix("F_dff")
        if self.options.key is not None:
            left = noise_left(stored, self.c, self.residuals, self.rate)
            if left.denoised:
                raise InputError(
                    f"{self.path}: F_dff is denoised: its noise level ν is {left.nu:.3f}, as it was computed from C "
                    f"without the residuals, and the result would be meaningless. {ADVICE}"
                )
        if not self._had_background():
            self.problems.append(
                "the file does not hold the background (b, f) that F_dff should have been divided by: if CaImAn had "
                "none, F_dff is only detrended, its values are no fraction, and the result is on no known scale"
            )
        n_frames = self._without_padding(stored)
        self.facts.append("ΔF/F as CaImAn computed it (F_dff), with the residuals")
        return LazyMatrix(stored, n_frames=n_frames), self.options.kind or "dff", stored.shape[1]

    def _sum(self) -> tuple[Any, Kind, int]:
        if self.c is None or self.residuals is None:
            raise FileFormatError(f"{self.path}: has no C or no residuals (YrA or R); it holds {self._listed()}")
        added = self._added()
        n_frames = added.shape[1]
        if self.c.shape != self.residuals.shape:
            self.problems.append(
                f"C has {self.c.shape[1]} frames and {self.residual_name} {self.residuals.shape[1]}: the first "
                f"{n_frames} are used"
            )
        background = self._background
        if background is not None and background.temporal.shape[1] < n_frames:
            raise FileFormatError(
                f"{self.path}: the background f has {background.temporal.shape[1]} frames "
                f"and C {n_frames}: expected as many"
            )
        n_frames = self._without_padding(added)
        if background is None:
            self.problems.append(
                "the file holds no background (A with b and f), so F0 is the baseline of C + YrA alone, which CaImAn "
                f"often puts near 0: ΔF/F may be much too large or undefined, and numbers of spikes wrong. {ADVICE}"
            )
        else:
            self.facts.append(
                f"fluorescence: norm(A) · (C + {self.residual_name}), with the level of each component's background "
                "A'(b f) / norm(A) added, so that F0 is that of CaImAn's detrend_df_f"
            )
            if self._one_photon:
                self.problems.append(
                    "the background is that of a 1-photon recording (b0): most of it is out-of-focus light, so ΔF/F is "
                    "too small, and models trained on 2-photon recordings give no calibrated numbers"
                )
        frames = BACKGROUND_FRAMES if self.rate is None else max(1, round(BACKGROUND_S * self.rate))
        traces = Fluorescence(
            *added.stored, scale=self._norms, background=background, block_frames=frames, n_frames=n_frames
        )
        return traces, self.options.kind or "fluorescence", self.c.shape[1]

    def _added(self) -> LazyMatrix:
        """C and the residuals, over the frames that both have."""
        n_frames = int(min(self.c.shape[1], self.residuals.shape[1]))
        return LazyMatrix(*(LazyMatrix(array, n_frames=n_frames) for array in (self.c, self.residuals)))

    def _without_padding(self, matrix: Any) -> int:
        """Frames before the zeros that an online run leaves where it stopped before the length it was told."""
        n_frames = stop = int(matrix.shape[1])
        width = 1
        while stop:
            part = np.asarray(matrix[:, max(0, stop - width) : stop])
            used = np.flatnonzero((part != 0).any(axis=0))
            if used.size:
                stop += int(used[-1]) + 1 - part.shape[1]
                break
            stop = max(0, stop - width)
            width = min(2 * width, 4096)
        if not stop:
            raise FileFormatError(f"{self.path}: all values of all components are 0")
        if stop < n_frames:
            self.problems.append(
                f"the last {n_frames - stop} of {n_frames} frames are 0 for all components, as an online run leaves "
                "them that ended early: they are left out"
            )
        return int(stop)

    # --- the rest ------------------------------------------------------------------------------------------

    @cached_property
    def _norms(self) -> NDArray[np.float64]:
        """Norm of each component's footprint; 1 where it is unknown or empty."""
        if self._footprints is None:
            return np.ones(self.c.shape[0])
        norms = np.sqrt(np.asarray(self._footprints.multiply(self._footprints).sum(axis=0), np.float64)).ravel()
        return np.where(norms > 0, norms, 1.0)

    @cached_property
    def _footprints(self) -> Any:
        found = read_sparse(self.estimates.get("A"))
        if found is None or self.c is None or found.shape[1] != self.c.shape[0]:
            return None
        return found

    @cached_property
    def _background(self) -> Background | None:
        footprints = self._footprints
        if footprints is None:
            return None
        spatial, temporal = read_sparse(self.estimates.get("b")), self._matrix("f")
        if spatial is not None and temporal is not None and spatial.shape == (footprints.shape[0], temporal.shape[0]):
            self._one_photon = False
            return Background(self._project(spatial), np.asarray(temporal[...], np.float64))
        # CNMF-E models the background by a ring of neighbours around a constant image.
        constant = self.estimates.get("b0")
        if getattr(constant, "shape", ()) and int(np.prod(constant.shape)) == footprints.shape[0]:
            image = to_sparse(np.asarray(constant[...], np.float64).reshape(-1, 1))
            self._one_photon = True
            return Background(self._project(image), np.ones((1, self.c.shape[1])))
        return None

    def _had_background(self) -> bool:
        return all(read_sparse(self.estimates.get(name)) is not None for name in ("b", "f"))

    def _project(self, spatial: Any) -> NDArray[np.float64]:
        projected = (self._footprints.T @ spatial).toarray()
        return np.asarray(projected / self._norms[:, None], np.float64)

    def _is_cell(self, n_components: int) -> NDArray[np.bool_] | None:
        stored = self.estimates.get("idx_components")
        # None is stored as text, and so are arrays that were never filled; a scalar is no list of components.
        if not getattr(stored, "shape", ()) or stored.dtype.kind not in "fiub":
            self.problems.append(
                f"the file does not tell which components were accepted (idx_components): all {n_components} are "
                "used. They are all good if select_components was called before saving"
            )
            return None
        chosen = np.asarray(stored[...]).ravel()
        if chosen.dtype.kind == "b" and chosen.size == n_components:
            chosen = np.flatnonzero(chosen)
        accepted = np.zeros(n_components, bool)
        indices = chosen.astype(np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= n_components):
            raise FileFormatError(
                f"{self.path}: idx_components names component {indices.max()}, the file has {n_components} (0 to "
                f"{n_components - 1}): it was saved after a selection; set estimates.idx_components "
                "to None and save again"
            )
        accepted[indices] = True
        self.facts.append(f"{indices.size} of {n_components} components accepted by CaImAn (idx_components)")
        if not indices.size:
            self.problems.append("CaImAn accepted none of the components (idx_components is empty)")
        return accepted

    def _matrix(self, name: str) -> Any:
        """A stored matrix; None where it is missing, which CaImAn stores as the text ``NoneType`` or as a scalar."""
        stored = self.estimates.get(name)
        if len(getattr(stored, "shape", ()) or ()) != 2 or 0 in stored.shape or stored.dtype.kind not in "fiu":
            return None
        return stored

    def _listed(self) -> str:
        names = [name for name in self.estimates if self._matrix(name) is not None]
        return ", ".join(f"{name} {tuple(self.estimates[name].shape)}" for name in names) or "no matrices"


def _group_name(file: Any) -> str | None:
    import h5py

    for name in GROUPS:
        group = file.get(name)
        if isinstance(group, h5py.Group) and "C" in group and any(other in group for other in ("A", "YrA", "S")):
            return name
    return None


def _frame_rate(file: Any, group: str) -> float | None:
    parent = group.rpartition("/")[0]
    for name in ("params/data", "params"):
        stored = file.get(f"{parent}/{name}" if parent else name)
        if stored is None:
            continue
        for values in (stored, stored.attrs) if hasattr(stored, "keys") else (stored.attrs,):
            if "fr" in values and hasattr(values["fr"], "shape"):
                found = values["fr"]
                rate = positive_number(found[()] if hasattr(found, "id") else found)
                if rate is not None:
                    return rate
        if not hasattr(stored, "keys"):
            rate = _rate_in_text(text(stored[()]))
            if rate is not None:
                return rate
    return None


def _rate_in_text(described: str) -> float | None:
    import json

    try:
        values = json.loads(described)
        return positive_number(values.get("data", values).get("fr"))
    except (ValueError, AttributeError):
        return None
