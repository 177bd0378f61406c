"""Models loaded for running. The only file that imports onnxruntime.

A :class:`Model` is immutable and may serve many streams and offline calls at once, also from several threads;
what changes from frame to frame belongs to :class:`cascade_rt.SpikeStream`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

import numpy as np

from . import bundle as bundles
from .errors import DeviceError, InputError, ModelError
from .graph import dense_model
from .stepper import Group, Stepper
from .window_stepper import WindowStepper

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from .bundle import Bundle
    from .chunks import ModelSpec
    from .network import Network

__all__ = ["Device", "Model", "load_model"]

Device = Literal["cpu", "cuda", "auto"]

log = logging.getLogger(__name__)

#: GPUs would round products to 10 bits (TF32), which differs from the CPU by more than results may; and tiles of many
#: sizes should not each be preceded by a search for the fastest algorithm.
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


def load_model(name_or_path: str | os.PathLike[str], *, device: Device = "cpu", threads: int | None = None) -> Model:
    """Load a model and make it ready to run.

    Parameters
    ----------
    name_or_path : str or path
        Name of a shipped or installed model (see :func:`cascade_rt.list_models`), or the path of a bundle.
    device : "cpu", "cuda" or "auto"
        ``"cuda"`` raises if the model would not run on the GPU; ``"auto"`` takes the GPU if it can and says in
        the log if it cannot.
    threads : int, optional
        Threads for the arithmetic; all cores of this process if not given.

    Returns
    -------
    Model

    Raises
    ------
    ModelNotFoundError, BundleError, DeviceError
    """
    return Model(bundles.read_bundle(bundles.find_bundle(name_or_path)), device=device, threads=threads)


class Model:
    """An immutable model; made by :func:`load_model`.

    Attributes
    ----------
    spec : ModelSpec
    folder : Path
    device : "cpu" or "cuda"
        Where it runs.
    threads : int
    """

    def __init__(self, bundle: Bundle, *, device: Device = "cpu", threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads={threads}: expected at least 1")
        self.spec: ModelSpec = bundle.spec
        self.folder: Path = bundle.folder
        self.threads = threads or available_cores()
        self._networks = dict(bundle.networks)
        self._dense: dict[float | None, Any] = {}
        self._lock = threading.Lock()
        # Live graphs of the same shape share a session, as long as a stream uses it.
        self._live: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
        self.device = self._choose_device(device)
        first = next(iter(self._networks))
        frames = np.zeros((1, self.spec.windowsize), np.float32)
        self.run_dense(first, frames, np.full(1, self.spec.noise_range[0]))

    def _choose_device(self, device: Device) -> Literal["cpu", "cuda"]:
        import onnxruntime as ort

        if device not in ("cpu", "cuda", "auto"):
            raise InputError(f"device={device!r}: expected 'cpu', 'cuda' or 'auto'")
        if device == "cpu":
            return "cpu"
        reason = (
            f"onnxruntime {ort.__version__} has no CUDA provider; it offers {', '.join(ort.get_available_providers())}"
        )
        if "CUDAExecutionProvider" in ort.get_available_providers():
            if hasattr(ort, "preload_dlls"):
                ort.preload_dlls()
            first = next(iter(self._networks))
            session = self._session(self._padded(first), cuda=True)
            if session.get_providers()[0] == "CUDAExecutionProvider":
                self._dense[first] = session
                return "cuda"
            reason = "onnxruntime could not start its CUDA provider (driver, CUDA or cuDNN missing?)"
        if device == "cuda":
            raise DeviceError(
                f"device='cuda': {reason}. Install the extra: pip install 'cascade-rt[gpu]' (and uninstall "
                "onnxruntime first), or use device='cpu'"
            )
        log.warning("device='auto': running on the CPU, since %s", reason)
        return "cpu"

    def _live_session(self, model: Any) -> Any:
        """Session of a live graph, which runs in the thread that calls it."""
        data = model.SerializeToString(deterministic=True)
        key = hashlib.sha256(data).digest()
        with self._lock:
            session = self._live.get(key)
            if session is None:
                session = self._live[key] = self._session(data, threads=1)
        return session

    def _session(self, data: bytes, *, cuda: bool = False, threads: int | None = None) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = True
        # Threads may spin while a frame is computed, never between frames.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        providers: list[Any] = ["CPUExecutionProvider"]
        if cuda:
            providers.insert(0, ("CUDAExecutionProvider", CUDA_OPTIONS))
        return ort.InferenceSession(data, options, providers=providers)

    def _padded(self, key: float | None) -> bytes:
        data: bytes = dense_model(self._networks[key], padded=True).SerializeToString()
        return data

    @property
    def provider(self) -> str:
        """onnxruntime's execution provider in use."""
        return "CUDAExecutionProvider" if self.device == "cuda" else "CPUExecutionProvider"

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds per neuron and frame."""
        return next(iter(self._networks.values())).multiply_adds

    def network_keys(self, nu: NDArray[np.floating]) -> list[float | None]:
        """Which network serves each neuron.

        Parameters
        ----------
        nu : ndarray, (n_neurons,)
            Noise levels, % Hz^-1/2, none of them NaN.

        Returns
        -------
        list of float or None
            The trained level nearest to each ν; None for a conditioned model.
        """
        if self.spec.family == "conditioned":
            return [None] * len(nu)
        levels = np.asarray(self.spec.noise_levels)
        return [float(levels[i]) for i in np.abs(np.asarray(nu)[:, None] - levels).argmin(axis=1)]

    def run_dense(
        self, key: float | None, frames: NDArray[np.float32], nu: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """Run one network over pieces of recordings.

        Parameters
        ----------
        key : float or None
            As :meth:`network_keys` gives it.
        frames : ndarray, (rows, n_frames), float32
            ΔF/F, finite, at least one window long.
        nu : ndarray, (rows,)
            Noise levels; used by a conditioned model.

        Returns
        -------
        ndarray, (rows, n_lookaheads, n_frames - windowsize + 1), float32
        """
        with self._lock:
            if key not in self._dense:
                self._dense[key] = self._session(self._padded(key), cuda=self.device == "cuda")
            session = self._dense[key]
        feed = {"dff": frames}
        if self.spec.family == "conditioned":
            feed["noise_level"] = np.asarray(nu, np.float32)
        result: NDArray[np.float32] = session.run(None, feed)[0]
        return result

    def stepper(self, nu: NDArray[np.floating]) -> Stepper | WindowStepper:
        """Make the live state of the neurons of a stream; warmed up, before its first frame.

        Parameters
        ----------
        nu : ndarray, (n_neurons,)
            Noise levels; a neuron with NaN has NaN as output.
        """
        levels: NDArray[np.float64] = np.asarray(nu, np.float64)
        known = np.flatnonzero(np.isfinite(levels))
        keys = self.network_keys(levels[known])
        rows = {key: known[[k == key for k in keys]] for key in dict.fromkeys(keys)}
        made: Stepper | WindowStepper
        if self.device == "cuda":
            made = WindowStepper(self, rows, levels)
        else:
            groups = [Group(self._networks[key], members, levels[members]) for key, members in rows.items()]
            shape = levels.size, len(self.spec.lookaheads)
            made = Stepper(groups, shape, self._live_session, _value, threads=self.threads)
        for _ in range(2):
            made.step(np.zeros(levels.size, np.float32))
        made.reset()
        return made

    def network(self, key: float | None) -> Network:
        """Weights of one network."""
        return self._networks[key]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as the name of the folder; there, every copy is the same object."""
        return _shared, (str(self.folder), self.spec.name, self.device, self.threads, self.spec.source_sha256)

    def __repr__(self) -> str:
        return f"<Model {self.spec.name} on {self.device}, {self.threads} threads>"


@lru_cache(maxsize=4)
def _shared(folder: str, name: str, device: Device, threads: int, source_sha256: str) -> Model:
    # Another machine has its models elsewhere.
    model = load_model(folder if os.path.isdir(folder) else name, device=device, threads=threads)  # noqa: PTH112
    if model.spec.source_sha256 != source_sha256:
        raise ModelError(f"{folder} holds other weights here than where the model was loaded: use the same model files")
    return model


def _value(array: NDArray[np.float32]) -> Any:
    """An onnxruntime value that shares the memory of ``array``."""
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(array)


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
