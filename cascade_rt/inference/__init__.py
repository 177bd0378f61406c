"""From a file to spikes in one call: :func:`infer` reads, checks, makes ΔF/F, chooses a model, predicts and writes."""

from __future__ import annotations

from .pipeline import infer

__all__ = ["infer"]
