"""Calibrated spike probabilities from calcium imaging, live and offline.

Public names are imported when first used, so that ``import cascade_rt`` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import import_cascade, list_models
    from .discretization import DiscretizeStream as DiscretizeStream
    from .discretization import discretize
    from .engine import Model as Model
    from .engine import load_model
    from .errors import CascadeError
    from .formats import open_source
    from .inference import infer
    from .noise import noise_levels
    from .offline import predict
    from .recommendation import recommend
    from .results import open_result
    from .simulation import simulate as simulate
    from .stream import SpikeStream

__version__ = "0.1.0"

_HOME = {
    "CascadeError": "errors",
    "DiscretizeStream": "discretization",
    "Model": "engine",
    "SpikeStream": "stream",
    "discretize": "discretization",
    "infer": "inference",
    "import_cascade": "bundle",
    "list_models": "bundle",
    "load_model": "engine",
    "noise_levels": "noise",
    "open_result": "results",
    "open_source": "formats",
    "predict": "offline",
    "recommend": "recommendation",
    "simulate": "simulation",
}

#: The twelve that most people need. Model, DiscretizeStream and simulate are found here too.
__all__ = [
    "CascadeError",
    "SpikeStream",
    "discretize",
    "import_cascade",
    "infer",
    "list_models",
    "load_model",
    "noise_levels",
    "open_result",
    "open_source",
    "predict",
    "recommend",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
