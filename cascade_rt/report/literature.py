"""What to cite: the method, the ground truth that a model learnt from, and the program that extracted the traces."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cascade_rt.chunks import ModelSpec

__all__ = ["CASCADE", "GCAMP8", "PIPELINES", "Paper", "ground_truth_papers", "unknown_datasets"]


class Paper(NamedTuple):
    """A publication.

    Parameters
    ----------
    short : str
        As in running text: ``Rupprecht et al., 2021``.
    full : str
        Authors, title, journal, pages, year.
    doi : str
    """

    short: str
    full: str
    doi: str


CASCADE = Paper(
    "Rupprecht et al., 2021",
    "Rupprecht P, Carta S, Hoffmann A, et al. A database and deep learning toolbox for noise-optimized, generalized "
    "spike inference from calcium imaging. Nature Neuroscience 24, 1324–1337 (2021)",
    "10.1038/s41593-021-00895-5",
)
GCAMP8 = Paper(
    "Rupprecht et al., 2025",
    "Rupprecht P, Rózsa M, Fang X, Svoboda K, Helmchen F. Spike inference from calcium imaging data acquired with "
    "GCaMP8 indicators. bioRxiv 2025.03.03.641129 (2025)",
    "10.1101/2025.03.03.641129",
)
SPINAL_CORD = Paper(
    "Rupprecht et al., 2025b",
    "Rupprecht P, Fan W, Sullivan S, Helmchen F, Sdrulla A. Spike rate inference from mouse spinal cord calcium "
    "imaging data. Journal of Neuroscience 45(18), e1187242025 (2025)",
    "10.1523/JNEUROSCI.1187-24.2025",
)

#: Of programs that extract traces, and of formats, by the name of the format.
PIPELINES = {
    "suite2p": Paper(
        "Pachitariu et al., 2017",
        "Pachitariu M, Stringer C, Dipoppa M, et al. Suite2p: beyond 10,000 neurons with standard two-photon "
        "microscopy. bioRxiv 061507 (2017)",
        "10.1101/061507",
    ),
    "caiman": Paper(
        "Giovannucci et al., 2019",
        "Giovannucci A, Friedrich J, Gunn P, et al. CaImAn an open source tool for scalable calcium imaging data "
        "analysis. eLife 8, e38173 (2019)",
        "10.7554/eLife.38173",
    ),
    "minian": Paper(
        "Dong et al., 2022",
        "Dong Z, Mau W, Feng Y, et al. Minian, an open-source miniscope analysis pipeline. eLife 11, e70661 (2022)",
        "10.7554/eLife.70661",
    ),
    "nwb": Paper(
        "Rübel et al., 2022",
        "Rübel O, Tritt A, Ly R, et al. The Neurodata Without Borders ecosystem for neurophysiological data science. "
        "eLife 11, e78362 (2022)",
        "10.7554/eLife.78362",
    ),
}

_KWAN = Paper(
    "Kwan and Dan, 2012",
    "Kwan AC, Dan Y. Dissection of cortical microcircuits by single-neuron stimulation in vivo. Current Biology 22, "
    "1459–1467 (2012)",
    "10.1016/j.cub.2012.06.007",
)
_TADA = Paper(
    "Tada et al., 2014",
    "Tada M, Takeuchi A, Hashizume M, Kitamura K, Kano M. A highly sensitive fluorescent indicator dye for calcium "
    "imaging of neural activity in vitro and in vivo. European Journal of Neuroscience 39, 1720–1728 (2014)",
    "10.1111/ejn.12476",
)
_CHEN = Paper(
    "Chen et al., 2013",
    "Chen T-W, Wardill TJ, Sun Y, et al. Ultrasensitive fluorescent proteins for imaging neuronal activity. Nature "
    "499, 295–300 (2013)",
    "10.1038/nature12354",
)
_HUANG = Paper(
    "Huang et al., 2021",
    "Huang L, Ledochowitsch P, Knoblich U, et al. Relationship between simultaneously recorded spiking activity and "
    "fluorescence signal in GCaMP6 transgenic mice. eLife 10, e51675 (2021)",
    "10.7554/eLife.51675",
)
_BERENS = Paper(
    "Berens et al., 2018",
    "Berens P, Freeman J, Deneux T, et al. Community-based benchmarking improves spike rate inference from two-photon "
    "calcium imaging data. PLoS Computational Biology 14, e1006157 (2018)",
    "10.1371/journal.pcbi.1006157",
)
_AKERBOOM = Paper(
    "Akerboom et al., 2012",
    "Akerboom J, Chen T-W, Wardill TJ, et al. Optimization of a GCaMP calcium indicator for neural activity imaging. "
    "Journal of Neuroscience 32, 13819–13840 (2012)",
    "10.1523/JNEUROSCI.2601-12.2012",
)
_SCHOENFELD = Paper(
    "Schoenfeld et al., 2021",
    "Schoenfeld G, Carta S, Rupprecht P, Ayaz A, Helmchen F. In vivo calcium imaging of CA3 pyramidal neuron "
    "populations in adult mouse hippocampus. eNeuro 8(4), ENEURO.0023-21.2021 (2021)",
    "10.1523/ENEURO.0023-21.2021",
)
_BETHGE = Paper(
    "Bethge et al., 2017",
    "Bethge P, Carta S, Lorenzo DA, et al. An R-CaMP1.07 reporter mouse for cell-type-specific expression of a "
    "sensitive red fluorescent calcium indicator. PLoS ONE 12, e0179460 (2017)",
    "10.1371/journal.pone.0179460",
)
_DANA = Paper(
    "Dana et al., 2016",
    "Dana H, Mohar B, Sun Y, et al. Sensitive red protein calcium indicators for imaging neural activity. eLife 5, "
    "e12727 (2016)",
    "10.7554/eLife.12727",
)
_KHAN = Paper(
    "Khan et al., 2018",
    "Khan AG, Poort J, Chadwick A, et al. Distinct learning-induced changes in stimulus selectivity and interactions "
    "of GABAergic interneuron classes in visual cortex. Nature Neuroscience 21, 851–859 (2018)",
    "10.1038/s41593-018-0143-z",
)
_ZHANG = Paper(
    "Zhang et al., 2023",
    "Zhang Y, Rózsa M, Liang Y, et al. Fast and sensitive GCaMP calcium indicators for imaging neural populations. "
    "Nature 615, 884–891 (2023)",
    "10.1038/s41586-023-05828-9",
)

#: Which papers the CASCADE database asks to cite for its datasets, by their numbers; those of GCaMP8 come from the
#: recordings that were published with these indicators.
_DATASETS = {
    1: (_BERENS,), 2: (_KWAN,), 3: (CASCADE, _TADA),
    4: (CASCADE,), 5: (CASCADE,), 6: (CASCADE,), 7: (CASCADE,), 8: (CASCADE,),
    9: (_CHEN,), 10: (_HUANG,), 11: (_HUANG,), 12: (_HUANG,), 13: (_HUANG,), 14: (_CHEN,), 15: (_BERENS,),
    16: (_BERENS,), 17: (_AKERBOOM,), 18: (_SCHOENFELD,), 19: (CASCADE, _BETHGE), 20: (_DANA,), 21: (_DANA,),
    22: (_KWAN,), 23: (_KWAN,), 24: (_KHAN,), 25: (_KHAN,), 26: (_KHAN,), 27: (CASCADE,),
    30: (GCAMP8, _ZHANG), 31: (GCAMP8, _ZHANG), 32: (GCAMP8, _ZHANG), 40: (SPINAL_CORD,), 41: (SPINAL_CORD,),
}  # fmt: skip


def ground_truth_papers(spec: ModelSpec) -> list[Paper]:
    """Papers of the datasets that a model was trained on, each once; without the one on CASCADE itself."""
    papers = [paper for dataset in spec.training_datasets for paper in _DATASETS.get(_number(dataset), ())]
    return [paper for paper in dict.fromkeys(papers) if paper is not CASCADE]


def unknown_datasets(datasets: Iterable[str]) -> list[str]:
    """Datasets whose papers are not known here."""
    return [dataset for dataset in datasets if _number(dataset) not in _DATASETS]


def _number(dataset: str) -> int:
    found = re.search(r"DS0*(\d+)", dataset)
    return int(found[1]) if found else -1
