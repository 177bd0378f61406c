"""Model folders with several models, as descriptions: what choosing between models needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from networks import picking_network, write_conditioned

if TYPE_CHECKING:
    from pathlib import Path

LOOKAHEADS = (0, 1, 2, 3, 5, 7, 15, 31)
NOISE = (0.8, 10.0)
NETWORK = picking_network(64, LOOKAHEADS, NOISE)
GCAMP8 = ("DS30-GCaMP8f-m-V1", "DS31-GCaMP8m-m-V1", "DS32-GCaMP8s-m-V1")
DYES = ("DS04-OGB1-zf-pDp", "DS05-Cal520-zf-pDp")
GLOBAL = (
    *("DS01-OGB1-m-V1", "DS03-Cal520-m-S1", *DYES, "DS06-GCaMP6f-zf-aDp", "DS11-GCaMP6f-m-V1-neuropil-corrected"),
    *("DS14-GCaMP6s-m-V1", "DS17-GCaMP5k-m-V1", "DS18-R-CaMP-m-CA3", "DS20-jRCaMP1a-m-V1"),
)

#: Name → frame rate (Hz), smoothing (ms), causal, training data.
ZOO: dict[str, tuple[float, float, bool, tuple[str, ...]]] = {
    **{
        f"{family}_{rate:g}Hz_{ms}ms{'_causal' if causal else ''}": (rate, ms, causal, data)
        for family, data in (("Global", GLOBAL), ("GCaMP8", GCAMP8))
        for rate, ms, causal in (
            (7.5, 200, False), (15, 100, False), (30, 50, False), (30, 25, False), (30, 50, True), (60, 12, False),
        )
    },
    "Zebrafish_7.5Hz_200ms": (7.5, 200, False, DYES),
}  # fmt: skip


def write_model(folder: Path, *, card: str = "", **changes: Any) -> Path:
    """Write a model for 30 Hz whose description has these ``changes``."""
    values = {"lookaheads": LOOKAHEADS, "noise_range": NOISE, "network": NETWORK, **changes}
    written = write_conditioned(folder, **values)
    if card:
        (written / "CARD.md").write_text(card, encoding="utf-8")
    return written


def write_offline(folder: Path, **changes: Any) -> Path:
    """Write a model with one look-ahead, 31 frames, as published ones have."""
    return write_model(folder, lookaheads=(31,), network=picking_network(64, (31,), NOISE), **changes)


def write_zoo(folder: Path) -> Path:
    """Write the models of :data:`ZOO` into ``folder``."""
    for name, (rate, ms, causal, data) in ZOO.items():
        write_model(
            folder / name,
            frame_rate_hz=rate, smoothing_s=ms / 1000, causal_kernel=causal, training_datasets=data,
        )  # fmt: skip
    return folder
