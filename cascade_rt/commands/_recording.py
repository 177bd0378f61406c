"""What commands that read a finished recording share: its noise levels as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def noise_histogram(nu: NDArray[np.float64], *, width: int = 40) -> list[str]:
    """Lines of a histogram of noise levels.

    Parameters
    ----------
    nu : ndarray, (n_neurons,)
        ν, % Hz^-1/2; NaN where unknown.
    width : int
        Characters of the longest bar.
    """
    import numpy as np

    known = nu[np.isfinite(nu)]
    if not known.size:
        return ["unknown for all neurons"]
    edges = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, np.inf])
    counts = np.histogram(known, edges)[0]
    lines = []
    used = np.flatnonzero(counts)
    for place in range(used[0], used[-1] + 1):
        low, high = edges[place], edges[place + 1]
        label = f"{low:g} to {high:g}" if np.isfinite(high) else f"above {low:g}"
        bar = "#" * int(np.ceil(width * counts[place] / counts.max()))
        lines.append(f"{label:>10}  {bar} {counts[place]}".rstrip())
    return lines
