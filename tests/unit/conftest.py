"""Models for the tests of the inference layer: small, random, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from networks import Shape, write_conditioned, write_published

from cascade_rt.bundle import import_cascade
from cascade_rt.engine import Model, load_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def binned(model_folder: Path) -> Model:
    """CASCADE's default network with fewer filters: 4 noise levels, 2 members, look-ahead 31."""
    write_published(model_folder / "published_binned", levels=(1, 2, 4, 8))
    return load_model(
        import_cascade(model_folder / "published_binned", model_folder / "binned", name="binned"), threads=1
    )


@pytest.fixture(scope="session")
def online(model_folder: Path) -> Model:
    """Another window, other filters, pooling that leaves a remainder, look-ahead 6, long smoothing, one network."""
    shape = Shape(window=33, filter_sizes=(7, 6, 3), filter_numbers=(3, 5, 4), dense_expansion=10)
    write_published(
        model_folder / "published_online",
        shape=shape, levels=(2,), members=1, seed=1, before_frac=0.8, sampling_rate=15, smoothing=0.2,
    )  # fmt: skip
    return load_model(
        import_cascade(model_folder / "published_online", model_folder / "online", name="online"), threads=1
    )


@pytest.fixture(scope="session")
def conditioned(model_folder: Path) -> Model:
    """One network for all noise levels and the look-aheads 0, 1, 2, 3, 7 and 15."""
    return load_model(write_conditioned(model_folder / "conditioned"), threads=1)


@pytest.fixture(scope="session")
def models(binned: Model, online: Model, conditioned: Model) -> dict[str, Model]:
    return {model.spec.name: model for model in (binned, online, conditioned)}
