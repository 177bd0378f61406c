"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SHARED = Path(os.environ.get("CASCADE_RT_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real recordings, published models and golden outputs; skips where it is absent."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"reference data not present at {SHARED.name}/ beside the repository")
    return SHARED
