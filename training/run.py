"""One training run from its configuration: read, fit, score, export. What the command line calls."""

from __future__ import annotations

import logging
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt.bundle import find_bundle, read_spec
from cascade_rt.errors import TrainingError

from . import card
from .copies import shared_recordings
from .evaluate import Kernel
from .export import conditioned_spec, export_bundle
from .fit import fit, read_record, training_traces
from .ground_truth import find_dataset, leave_one_dataset_out, read_datasets, split_neurons
from .noised import NOISE_LEVELS, NoisedTraces
from .scoring import check_rates, load_any, noised_traces, rival_tables, score_model
from .summary import Table
from .tables import from_document, read_document, to_document, write_document

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from contextlib import AbstractContextManager

    from .config import TrainingConfig
    from .evaluate import Score
    from .fit import Report
    from .ground_truth import Problem, Recording

    #: Neurons (dataset, neuron) left out of the training of a model, and that model, loaded.
    HeldOut = tuple[set[tuple[str, str]], Any]

__all__ = ["Run"]

logger = logging.getLogger(__name__)

#: Subfolder of the network that learns from all neurons.
ALL = "all"
SCORES, GENERALISE = "scores.json", "generalise.json"

_LEFT_OUT = "Leave one dataset out: each dataset scored by a model that was trained on the others"


class Run:
    """A configuration, the ground truth, and the folder in which its training is kept.

    Parameters
    ----------
    config : TrainingConfig
    ground_truth : Path
        Folder of the datasets.
    folder : Path
        For checkpoints and scores.
    published : Path or None
        Folder of published CASCADE models, for ``config.reference``.
    """

    def __init__(
        self, config: TrainingConfig, *, ground_truth: Path, folder: Path, published: Path | None = None
    ) -> None:
        self.config, self.ground_truth, self.folder, self.published = config, ground_truth, folder, published
        self._recordings: list[Recording] | None = None
        self.problems: list[Problem] = []

    @property
    def recordings(self) -> list[Recording]:
        """Recordings of the training datasets."""
        if self._recordings is None:
            self._recordings, self.problems = read_datasets(self.ground_truth, self.config.datasets)
        return self._recordings

    def folds(self) -> list[set[tuple[str, str]]]:
        """Neurons left out of each fold of the cross-validation; empty if the configuration has none."""
        return split_neurons(self.recordings, self.config.folds, 0) if self.config.folds else []

    def fit(
        self, *, leave_out: Collection[tuple[str, str]] = (), part: str = ALL, progress: Report | None = None
    ) -> Any:
        """Train, go on training, or load the finished network.

        Parameters
        ----------
        leave_out : collection of (dataset, neuron)
        part : str
            Subfolder: "all", or a fold.
        progress : callable, optional

        Returns
        -------
        keras.Model
        """
        traces = training_traces(self.recordings, self.config, leave_out=leave_out)
        return fit(traces, self.config, self.folder / part, progress=progress)

    def evaluate(
        self,
        *,
        noise_levels: Sequence[float] = NOISE_LEVELS,
        rivals: Sequence[Any] = (),
        progress: Report | None = None,
    ) -> list[Table]:
        """Score by cross-validation and on the test datasets, with the published reference and rivals beside it.

        Writes the scores of every neuron, and their summary, to ``scores.json`` in the run's folder.

        Parameters
        ----------
        noise_levels : sequence of float
            % Hz^-1/2.
        rivals : sequence of cascade_rt.engine.Model
            Scored on the same traces.
        progress : callable, optional
            Called while what is not trained yet is trained.

        Returns
        -------
        list of Table
            Empty if the configuration has neither folds nor test datasets.

        Raises
        ------
        TrainingError
            A rival is for another frame rate.
        """
        config = self.config
        others = [*rivals, *([load_any(config.reference, published=self.published)] if config.reference else [])]
        check_rates(others, config.name, config.frame_rate_hz)
        tables: list[Table] = []
        if config.folds:
            models = [
                (left, self._engine(self.fit(leave_out=left, part=f"fold{number}", progress=progress)))
                for number, left in enumerate(self.folds())
            ]
            title = f"{config.folds}-fold cross-validation over neurons of the training datasets"
            tables += self._compared(title, "folds", self.recordings, models, others, noise_levels)
        if config.test_datasets:
            recordings = self._test_recordings()
            models = [({(r.dataset, r.neuron) for r in recordings}, self._engine(self.fit(progress=progress)))]
            title = "Datasets that the model was not trained on"
            tables += self._compared(title, "unseen", recordings, models, others, noise_levels)
        self._write(SCORES, tables)
        return tables

    def generalise(
        self,
        *,
        datasets: Sequence[str] = (),
        noise_levels: Sequence[float] = NOISE_LEVELS,
        progress: Callable[[str], AbstractContextManager[Report | None]] | None = None,
    ) -> list[Table]:
        """Leave one dataset out: train without each dataset and score on it, as CASCADE's benchmark does.

        Goes on where it stopped. Writes ``generalise.json`` in the run's folder, again after each dataset.

        Parameters
        ----------
        datasets : sequence of str
            Names or numbers of those to leave out; all in turn if empty.
        noise_levels : sequence of float
            % Hz^-1/2.
        progress : callable, optional
            From a label to a context manager that gives what :meth:`fit` calls.

        Raises
        ------
        TrainingError
            The configuration has a single dataset, or not all that are named.
        """
        wanted = {find_dataset(self.ground_truth, name).name for name in datasets}
        known = {r.dataset for r in self.recordings}
        if wanted - known:
            raise TrainingError(
                f"{', '.join(sorted(wanted - known))} cannot be left out: {self.config.name} is trained on "
                f"{', '.join(sorted(known))}"
            )
        tests = self._tests(self.recordings, noise_levels)
        scores: tuple[Score, ...] = ()
        tables: list[Table] = []
        for dataset, left in leave_one_dataset_out(self.recordings):
            if wanted and dataset not in wanted:
                continue
            with nullcontext() if progress is None else progress(f"without {dataset}") as report:
                network = self.fit(leave_out=left, part=f"without_{dataset.split('-')[0]}", progress=report)
            scored = {key for key in left if key[0] == dataset}
            scores += self._held_out_scores([(scored, self._engine(network))], tests)
            tables = [self._table(_LEFT_OUT, scores, test="left out")]
            self._write(GENERALISE, tables)
        return tables

    def tables(self) -> list[Table]:
        """Scores that :meth:`evaluate` wrote; empty if it has not run.

        Raises
        ------
        TrainingError
            They belong to another configuration, or are of an older form.
        """
        path = self.folder / SCORES
        if not path.exists():
            return []
        document = read_document(path)
        if document.get("digest") != self.config.digest():
            raise TrainingError(f"{path} belongs to another configuration: run 'python -m training evaluate' again")
        return from_document(document)

    def export(self, target: Path, *, overwrite: bool = False, progress: Report | None = None) -> tuple[Path, float]:
        """Write the bundle with its card; returns its folder and the largest difference to Keras."""
        model = self.fit(progress=progress)
        tables = self.tables()
        if not tables:
            logger.warning(
                "%s has no scores: run 'python -m training evaluate' first for a full card", self.config.name
            )
        text = card.card(self.config, tables, self.recordings, read_record(self.folder / ALL))
        return self._export(model, target, text=text, overwrite=overwrite)

    # ── parts ──

    def _test_recordings(self) -> list[Recording]:
        """Recordings of the test datasets, but for those that the training datasets hold too."""
        recordings, problems = read_datasets(self.ground_truth, self.config.test_datasets)
        self.problems += problems
        learnt = {(r.dataset, r.neuron) for r in self.recordings}
        same = shared_recordings([*self.recordings, *recordings])
        copies = sorted({key for key, first in same.items() if first in learnt and key not in learnt})
        for dataset, neuron in copies:
            logger.warning("%s/%s is not scored: the training datasets hold the same recording", dataset, neuron)
        return [r for r in recordings if (r.dataset, r.neuron) not in copies]

    def _tests(self, recordings: Sequence[Recording], noise_levels: Sequence[float]) -> NoisedTraces:
        config = self.config
        return noised_traces(recordings, config.frame_rate_hz, config.network.receptive_field, noise_levels)

    def _held_out_scores(self, held_out: Sequence[HeldOut], tests: NoisedTraces) -> tuple[Score, ...]:
        """Score each model on the neurons that it never saw."""
        kernel = Kernel(self.config.smoothing_s, self.config.causal_kernel)
        return tuple(s for left, model in held_out for s in score_model(model, tests.of(left), [kernel])[0])

    def _compared(
        self,
        title: str,
        test: str,
        recordings: Sequence[Recording],
        held_out: Sequence[HeldOut],
        rivals: Sequence[Any],
        noise_levels: Sequence[float],
    ) -> list[Table]:
        """Table of the model's own scores, then those of its rivals on the same recordings."""
        tests = self._tests(recordings, noise_levels)
        own = self._table(title, self._held_out_scores(held_out, tests), test=test)
        spec = held_out[0][1].spec
        return [own, *rival_tables(rivals, spec, tests, self.ground_truth, test=test)]

    def _table(self, title: str, scores: tuple[Score, ...], *, test: str) -> Table:
        config = self.config
        return Table(
            title=title, test=test, model=config.name, lookaheads=config.network.lookahead_frames, scores=scores
        )

    def _write(self, name: str, tables: Sequence[Table]) -> None:
        config = self.config
        document = to_document(
            tables,
            model=config.name,
            digest=config.digest(),
            frame_rate_hz=config.frame_rate_hz,
            smoothing_s=config.smoothing_s,
            causal_kernel=config.causal_kernel,
        )
        write_document(self.folder / name, document)

    def _export(self, model: Any, target: Path, *, text: str, overwrite: bool) -> tuple[Path, float]:
        config = self.config
        spec = conditioned_spec(
            config.name,
            config.network,
            frame_rate_hz=config.frame_rate_hz,
            smoothing_s=config.smoothing_s,
            causal_kernel=config.causal_kernel,
            training_datasets=self._learnt_from(),
            model=model,
        )
        entries = card.bundle_config(config)
        return export_bundle(
            target, {None: [model]}, config.network, spec, card=text, config=entries, overwrite=overwrite
        )

    def _learnt_from(self) -> tuple[str, ...]:
        """Datasets behind the weights: the configuration's, and those of the model that training started from."""
        start = self.config.from_model
        before = read_spec(find_bundle(start)).training_datasets if start else ()
        return tuple(dict.fromkeys([*self.config.datasets, *before]))

    def _engine(self, model: Any) -> Any:
        """Load a Keras model the way users will run it: through a bundle."""
        from cascade_rt.engine import load_model

        with tempfile.TemporaryDirectory() as folder:
            path, _ = self._export(model, Path(folder) / self.config.name, text="", overwrite=False)
            return load_model(path)
