"""Sources in, a folder of results out: pictures, detections or masks, a table, videos, a data set."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from backbones.errors import DataError

from .ahead import ahead
from .dataset import predicted_dataset
from .download import download
from .files import coco_file, csv_file, json_lines
from .predictor import Predictor, Prepared
from .results import SHOWN_SCORE, Detections, LabelMap, Result
from .sources import Source
from .video import Frame, Video, video_file

_LOADERS, _RENDERERS = 2, 2
_COLUMNS = {
    'detection': ('picture', 'frame', 'class', 'score', 'left', 'top', 'width', 'height', 'pixels'),
    'segmentation': ('picture', 'frame', 'class', 'pixels', 'share'),
}
_TABLES = {'detection': 'objects.csv', 'segmentation': 'pixels.csv'}


@dataclass
class Summary:
    """What came of a run.

    Attributes:
        pictures: How many were predicted.
        videos: Likewise.
        frames: Of all videos.
        broken: A sentence for each source that could not be read or predicted.
        files: What was written, folders and files.
    """

    pictures: int = 0
    videos: int = 0
    frames: int = 0
    broken: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class _Broken:
    message: str


@dataclass(frozen=True)
class _Job:
    """A picture on its way: where it comes from, its file, and its number from 1."""

    source: Source
    path: Path
    image_id: int


class PredictionRun:
    """Predicts on sources and writes what was asked for.

    Memory does not grow with the number of pictures: each is loaded while the model works on one before
    it, drawn and encoded while the model works on one after it, and then forgotten.

    Args:
        predictor: The model.
        out: The folder of all results; it is made.
        score: The least score of objects in all results. None: all that the model finds in
            ``predictions.json``, and from 0.3 on in pictures, tables, videos and data sets.
        as_dataset: ``'link'`` or ``'copy'``: also write a data set; None: do not.
    """

    def __init__(
        self,
        predictor: Predictor,
        out: Path,
        score: float | None = None,
        as_dataset: str | None = None,
    ) -> None:
        self.predictor, self.out, self.as_dataset = predictor, Path(out), as_dataset
        self.shown = SHOWN_SCORE if score is None else score
        self.summary = Summary()

    def predict(self, sources: list[Source]) -> Summary:
        """Predict on ``sources``; those that cannot be read, or that the model cannot take, are named and
        counted.

        Raises:
            DataError: None of them can be predicted, or the data set exists.
        """
        task, classes = self.predictor.task, self.predictor.classes
        with ExitStack() as stack:
            self._downloads = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.dataset = None
            if self.as_dataset:
                folder, copy = self.out / 'dataset', self.as_dataset == 'copy'
                made = predicted_dataset(folder, task, classes, self.shown, copy)
                self.dataset = stack.enter_context(made)
            table = self.out / _TABLES[task]
            self.tabulate = stack.enter_context(csv_file(table, _COLUMNS[task]))
            self.coco = None
            if task == 'detection':
                self.coco = stack.enter_context(coco_file(self.out / 'predictions.json', classes))
            with tqdm(total=len(sources), desc='predicting', disable=None) as self.bar:
                self._pictures(sources)
                self._videos(sources)
            self._require_some(len(sources))
        names = (table.name, 'predictions.json', 'dataset')
        given = (self.tabulate, self.coco, self.dataset)
        self.summary.files += [
            self.out / name for name, one in zip(names, given) if one is not None
        ]
        return self.summary

    def _require_some(self, total: int) -> None:
        done = self.summary.pictures + self.summary.videos
        if not done:
            raise DataError(
                f'none of {total} sources can be predicted; the first: {self.summary.broken[0]}'
                if total > 1
                else self.summary.broken[0]
            )

    def _skip(self, message: str) -> None:
        self.summary.broken.append(message)
        if self.bar.total > 1:  # else it is the error of the whole run
            self._say(f'Skipped: {message}')

    def _say(self, sentence: str) -> None:
        """Print a line, above the progress bar if there is one."""
        self.bar.write(sentence, file=sys.stderr)

    def _pictures(self, sources: list[Source]) -> None:
        numbered = ((k, source) for k, source in enumerate(sources, 1) if not source.is_video)
        waiting = self.predictor.batch_size + _LOADERS
        loaded = self._readable(ahead(self._load, numbered, _LOADERS, waiting))
        predicted = self.predictor.predicted(loaded, self._failed)
        for job, result in ahead(self._render, predicted, _RENDERERS, _RENDERERS):
            image = {
                'id': job.image_id,
                'file_name': job.source.name,
                'width': result.width,
                'height': result.height,
            }
            if self.coco is not None:
                self.coco.add(image, result.to_coco(job.image_id))
                if self.dataset is not None and isinstance(result, Detections):
                    self.dataset.add(_dataset_name(job.source), result, job.image_id)
            self.tabulate(self._rows(job.source.name, '', result))
            self.summary.pictures += 1
            self.bar.update()
        if self.summary.pictures:
            self._wrote('pictures')

    def _failed(self, prepared: Prepared, error: DataError) -> None:
        """Skip a picture that the model cannot take."""
        self._skip(str(error))
        self.bar.update()
        job = _job_of(prepared)
        if job.source.is_url:
            job.path.unlink()

    def _wrote(self, kind: str) -> None:
        folders = [kind, 'masks'] if self.predictor.task == 'segmentation' else [kind]
        self.summary.files += [self.out / name for name in folders if (self.out / name).is_dir()]

    def _load(self, numbered: tuple[int, Source]) -> Prepared | _Broken:
        image_id, source = numbered
        try:
            job = _Job(source, self._local(source), image_id)
            prepared = self.predictor.load_once(job.path, source.place)
        except DataError as error:
            return _Broken(str(error))
        prepared.tag = job
        return prepared

    def _local(self, source: Source) -> Path:
        """The file of a source, which is downloaded if it is on a server."""
        if not source.is_url:
            return Path(source.place)
        return download(source.place, self._downloads / source.name)

    def _readable(self, loaded: Iterable[Prepared | _Broken]) -> Iterator[Prepared]:
        for one in loaded:
            if isinstance(one, _Broken):
                self._skip(one.message)
                self.bar.update()
            else:
                yield one

    def _render(self, predicted: tuple[Prepared, object]) -> tuple[_Job, Result]:
        """Draw and write what belongs to one picture alone."""
        prepared, sample = predicted
        job = _job_of(prepared)
        result = self.predictor.result(prepared, sample)
        if isinstance(result, LabelMap):
            result.save_mask(self.out / 'masks' / f'{job.source.stem}.png')
        self._place(_dataset_name(job.source), job.path, result, job.source.is_url)
        result.save(self.out / 'pictures' / f'{job.source.stem}.jpg', **self._drawing(result))
        if job.source.is_url:
            job.path.unlink()
        return job, result

    def _place(
        self, name: str, image: Path | np.ndarray, result: Result, temporary: bool = False
    ) -> None:
        """Put an image, and its mask if it has one, into the data set if there is to be one."""
        if self.dataset is None:
            return
        self.dataset.place(name, image, temporary)
        if isinstance(result, LabelMap):
            self.dataset.place_mask(name, result)

    def _drawing(self, result: Result) -> dict:
        return {'score': self.shown} if isinstance(result, Detections) else {}

    def _rows(self, name: str, frame: int | str, result: Result) -> Iterator[tuple]:
        if isinstance(result, LabelMap):
            total = result.height * result.width
            for kind, pixels in result.pixels().items():
                yield name, frame, kind, pixels, f'{pixels / total:.6f}'
            return
        assert isinstance(result, Detections)
        shown = result.above(self.shown)
        areas = shown.areas()
        for place, (kind, box) in enumerate(zip(shown.names(), shown.boxes.tolist())):
            left, top, right, bottom = box
            numbers = (shown.scores[place], left, top, right - left, bottom - top)
            area = '' if areas is None else areas[place]
            yield name, frame, kind, *(f'{number:.4f}' for number in numbers), area

    def _videos(self, sources: list[Source]) -> None:
        first_id = count(len(sources) + 1)
        for source in (source for source in sources if source.is_video):
            path = None
            try:
                path = self._local(source)
                self._video(source, Video(path, source.place), first_id)
                self.summary.videos += 1
            except DataError as error:
                self._skip(str(error))
            finally:
                if source.is_url and path is not None:
                    path.unlink(missing_ok=True)
            self.bar.update()
        if self.summary.videos:
            self._wrote('videos')

    def _video(self, source: Source, video: Video, ids: Iterator[int]) -> None:
        folder = self.out / 'videos'
        frames = video.frames()
        # One thread: a decoder gives one frame after another.
        waiting = self.predictor.batch_size + 1
        decoded = ahead(lambda _: next(frames, None), count(), 1, waiting)
        target = folder / f'{source.stem}.mp4'
        before = self.summary.frames
        with (
            closing(decoded),
            video_file(target, video.rate) as add_frame,
            json_lines(target.with_suffix('.jsonl')) as add_line,
        ):
            prepared = (self._frame(source, frame) for frame in iter(decoded.__next__, None))
            predicted = self.predictor.predicted(prepared)
            for frame, result, drawn in ahead(self._draw, predicted, _RENDERERS, _RENDERERS):
                add_frame(drawn)
                add_line(self._line(frame, result))
                self.tabulate(self._rows(source.name, frame.number, result))
                if self.dataset is not None:
                    name = _name_of_frame(source, frame)
                    self._place(name, frame.pixels, result)
                    if isinstance(result, Detections):
                        self.dataset.add(name, result, next(ids))
                self.summary.frames += 1
        found = self.summary.frames - before
        if found < video.stated:
            self._say(
                f'{source.place}: {found} of {video.stated} frames could be read; the file is damaged or '
                'its header states too many.'
            )

    def _frame(self, source: Source, frame: Frame) -> Prepared:
        prepared = self.predictor.load_once(frame.pixels, f'{source.place}, frame {frame.number}')
        prepared.tag = frame
        return prepared

    def _draw(self, predicted: tuple[Prepared, object]) -> tuple:
        prepared, sample = predicted
        result = self.predictor.result(prepared, sample)
        return prepared.tag, result, result.draw(**self._drawing(result))

    def _line(self, frame: Frame, result: Result) -> dict:
        entries = []
        for entry in result.to_coco(frame.number):
            del entry['image_id']
            entries.append({'class': result.classes[entry['category_id'] - 1], **entry})
        return {'frame': frame.number, 'time': round(frame.time, 6), 'annotations': entries}


def _job_of(prepared: Prepared) -> _Job:
    assert isinstance(prepared.tag, _Job)
    return prepared.tag


def _dataset_name(source: Source) -> str:
    """The name of a picture in a data set, whose stem no other one has."""
    return source.stem + PurePosixPath(source.name).suffix


def _name_of_frame(source: Source, frame: Frame) -> str:
    return f'{source.stem}/{frame.number:06d}.jpg'
