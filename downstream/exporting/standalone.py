"""Runs an exported detector or segmenter with NumPy and ONNX Runtime, or OpenVINO.

This one file may be copied into another project: it imports neither PyTorch nor the suite that wrote the
model. Pictures are read with OpenCV, or with Pillow where there is none.

    model = ExportedModel('model.onnx')
    found = model.predict('photo.jpg')
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

cv2: Any
try:
    cv2 = import_module('cv2')
except ImportError:
    cv2 = None

#: The version of the format that this file reads.
FORMAT = 1
#: Where an OpenVINO file has its facts.
RT_INFO = 'convnext_dense'
FORMATS = {'.onnx': 'onnx', '.xml': 'openvino'}


class ExportedModel:
    """A file of ``tools/export.py``, ready to run.

    Args:
        path: The ``.onnx`` file, or the ``.xml`` of OpenVINO, whose ``.bin`` lies beside it.
        threads: Of the CPU; None: all.
        providers: ONNX Runtime's; None: CUDA where it is installed, else the CPU.

    Attributes:
        facts: What the file says of itself: ``task``, ``classes``, ``palette``, ``input``, ``resize``,
            ``inference``, ``precision``, ``licence`` and others; docs/export.md lists them.
        device: Where it runs, ``'cpu'`` or ``'cuda'``.

    Raises:
        ValueError: It is no such file.
        ImportError: The library that runs it is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        suffix = self.path.suffix
        if suffix not in FORMATS:
            raise ValueError(f'{path}: the name of an exported model ends in .onnx or .xml.')
        opened = (
            _open_onnx(path, threads, providers) if suffix == '.onnx' else _open_xml(path, threads)
        )
        self._run, self._outputs, texts, self.device = opened
        self.facts = facts_of_texts(texts, str(path))

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of the file by name, as they are.

        Args:
            images: ``(N, H, W, C)`` of the dtype, and with the channels in the order, that
                ``facts['input']`` states; at the size that the network is to see.

        Raises:
            ValueError: The shape or dtype is none that the file takes.
        """
        check_images(images, self.facts)
        return dict(zip(self._outputs, self._run(np.ascontiguousarray(images))))

    def predict(self, picture: str | Path | np.ndarray, score: float | None = None) -> dict:
        """What is in a picture of any size.

        Args:
            picture: A path, or ``(H, W, C)`` with the channels in the order of ``facts['input']``.
            score: Of a detector: the least score; None: all that it finds.

        Returns:
            Of a segmenter ``classes``, ``(H, W)``, indices into ``facts['classes']``. Of a detector
            ``boxes`` ``(n, 4)``, x1 y1 x2 y2 in pixels, ``scores`` ``(n,)``, ``labels`` ``(n,)``, and
            ``masks`` ``(n, H, W)`` of bool where the model has masks.
        """
        if isinstance(picture, (str, Path)):
            picture = read_picture(picture, self.facts['input']['order'])
        height, width = picture.shape[:2]
        image = resized_picture(picture, self.facts['resize'])
        if self.facts['task'] == 'segmentation':
            scores = segmented(self.run, image, self.facts)
            return {'classes': classes_of_scores(scores, height, width, self.facts)}
        found = self.run(image[None])
        return placed_objects(found, image.shape[:2], (height, width), self.facts, score)


def facts_of_texts(texts: Mapping[str, str], path: str) -> dict:
    """The facts of a file from its metadata, whose values are JSON.

    Raises:
        ValueError: The file is of another tool, or of a newer version of this one.
    """
    try:
        facts = {key: json.loads(text) for key, text in texts.items()}
    except ValueError:
        facts = {}
    if facts.get('format') != FORMAT or 'task' not in facts:
        raise ValueError(f'{path} was not written by tools/export.py, or by another version of it.')
    return facts


def check_images(images: np.ndarray, facts: Mapping) -> None:
    """ValueError unless a file takes ``images``."""
    wanted = facts['input']
    sizes = (wanted['batch'], wanted['height'], wanted['width'], wanted['channels'])
    fits = images.ndim == 4 and all(want in (None, size) for want, size in zip(sizes, images.shape))
    if not fits or images.dtype != wanted['dtype'] or 0 in images.shape:
        shape = ', '.join('any' if size is None else str(size) for size in sizes)
        raise ValueError(
            f'images of shape {images.shape} and {images.dtype}: this file takes ({shape}) of '
            f'{wanted["dtype"]}.'
        )


def _open_onnx(path: str | Path, threads: int | None, providers: Sequence[str] | None) -> tuple:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is an exception too
    if threads:
        options.intra_op_num_threads = threads
    # Between two pictures the cores are for what else the program computes.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    if providers is None:
        usable = onnxruntime.get_available_providers()
        providers = [p for p in ('CUDAExecutionProvider', 'CPUExecutionProvider') if p in usable]
    if not Path(path).is_file():
        raise ValueError(f'{path} does not exist.')
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # the errors of its C++ part have no common class
        raise ValueError(f'{path} cannot be read: {_first_line(error)}') from error
    (source,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> list[np.ndarray]:
        return session.run(names, {source.name: images})

    device = 'cuda' if 'CUDAExecutionProvider' in session.get_providers() else 'cpu'
    return run, names, session.get_modelmeta().custom_metadata_map, device


def _open_xml(path: str | Path, threads: int | None) -> tuple:
    import openvino

    core = openvino.Core()
    if not Path(path).is_file():
        raise ValueError(f'{path} does not exist.')
    try:
        model = core.read_model(str(path))
        info = model.get_rt_info(RT_INFO).astype(dict) if model.has_rt_info(RT_INFO) else {}
        texts = {
            key: value if isinstance(value, str) else value.astype(str)
            for key, value in info.items()
        }
        # Otherwise it chooses bfloat16 by itself on newer CPUs.
        precision = 'bf16' if texts.get('precision') == '"bf16"' else 'f32'
        settings: dict = {'INFERENCE_PRECISION_HINT': precision}
        settings |= {'INFERENCE_NUM_THREADS': threads} if threads else {}
        compiled = core.compile_model(model, 'CPU', settings)
    except RuntimeError as error:
        raise ValueError(f'{path} cannot be read: {_first_line(error)}') from error
    names = [output.get_any_name() for output in compiled.outputs]

    def run(images: np.ndarray) -> list[np.ndarray]:
        results = compiled(images)
        return [results[place] for place in range(len(names))]  # copies of its own memory

    return run, names, texts, 'cpu'


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def read_picture(path: str | Path, order: str) -> np.ndarray:
    """``(H, W, 3)`` of uint8, turned as the camera was held.

    Args:
        path: A file.
        order: ``'BGR'`` or ``'RGB'``.

    Raises:
        ValueError: It cannot be read.
    """
    if cv2 is not None:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError(f'{path} cannot be read as a picture.')
        return picture if order == 'BGR' else np.ascontiguousarray(picture[..., ::-1])
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            picture = np.asarray(ImageOps.exif_transpose(file).convert('RGB'))
    except OSError as error:
        raise ValueError(f'{path} cannot be read as a picture: {error}') from error
    return picture if order == 'RGB' else np.ascontiguousarray(picture[..., ::-1])


def resized_picture(picture: np.ndarray, rule: Mapping | None) -> np.ndarray:
    """A picture at the size that the test of the model gives it.

    Args:
        picture: ``(H, W, C)``.
        rule: ``scale`` (width, height) and ``keep_ratio``, or None: as it is.

    Raises:
        ValueError: The rule is one that this file does not know.
    """
    if rule is None:
        return picture
    if 'scale' not in rule:
        raise ValueError(
            f'the rule {dict(rule)} for the size of pictures is unknown here; resize first.'
        )
    height, width = picture.shape[:2]
    if rule['keep_ratio']:
        factor = min(
            max(rule['scale']) / max(height, width), min(rule['scale']) / min(height, width)
        )
        new_width, new_height = int(width * factor + 0.5), int(height * factor + 0.5)
    else:
        new_width, new_height = rule['scale']
    new_width, new_height = max(new_width, 1), max(new_height, 1)
    if (new_height, new_width) == (height, width):
        return picture
    if cv2 is not None:
        image = cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        return image.reshape(new_height, new_width, picture.shape[2])
    planes = resized(np.moveaxis(picture, -1, 0).astype(np.float32), new_height, new_width)
    planes = np.rint(planes) if picture.dtype == np.uint8 else planes
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1).astype(picture.dtype))


def resized(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """``(..., H, W)`` by bilinear interpolation, pixels being squares, as PyTorch's without corners."""
    for axis, size in ((-2, height), (-1, width)):
        if planes.shape[axis] != size:
            low, high, part = _neighbours(planes.shape[axis], size)
            part = part[:, None] if axis == -2 else part
            below, above = np.take(planes, low, axis), np.take(planes, high, axis)
            planes = below + (above - below) * part
    return planes


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = np.floor(place).astype(np.int64)
    return low, np.minimum(low + 1, old - 1), (place - low).astype(np.float32)


def segmented(
    run: Callable[[np.ndarray], Mapping], image: np.ndarray, facts: Mapping
) -> np.ndarray:
    """The output of a segmenter for one picture, in windows where its test has them.

    Args:
        run: As :meth:`ExportedModel.run`.
        image: ``(H, W, C)`` at the size that the network is to see.
        facts: Of the file.

    Returns:
        ``(classes, H, W)`` logits, or ``(H, W)`` classes.
    """
    name, rule = facts['output'], facts['inference']
    if rule['mode'] == 'whole':
        return run(image[None])[name][0]
    height, width = image.shape[:2]
    total, count = None, np.zeros((height, width), np.float32)
    for top, bottom in _windows(height, rule['crop'][0], rule['stride'][0]):
        for left, right in _windows(width, rule['crop'][1], rule['stride'][1]):
            logits = run(image[None, top:bottom, left:right])[name][0]
            if total is None:
                total = np.zeros((len(logits), height, width), np.float32)
            total[:, top:bottom, left:right] += logits
            count[top:bottom, left:right] += 1
    return total / count


def _windows(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    """Where windows begin and end along one side; the last one ends with the picture."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(place * stride + crop, length) for place in range(count)]
    return [(max(end - crop, 0), end) for end in ends]


def classes_of_scores(scores: np.ndarray, height: int, width: int, facts: Mapping) -> np.ndarray:
    """``(height, width)`` indices of classes from what :func:`segmented` returns."""
    if scores.ndim == 2:
        rows = (np.arange(height) * scores.shape[0]) // height
        columns = (np.arange(width) * scores.shape[1]) // width
        return scores[rows[:, None], columns]
    scores = resized(scores, height, width)
    if len(scores) == 1:
        return (1 / (1 + np.exp(-scores[0])) > facts['threshold']).astype(np.uint8)
    return scores.argmax(0).astype(np.uint8 if len(scores) <= 256 else np.int32)


def placed_objects(
    found: Mapping[str, np.ndarray],
    seen: tuple[int, int],
    size: tuple[int, int],
    facts: Mapping,
    score: float | None = None,
) -> dict:
    """Objects in the pixels of the picture as it was before it was resized.

    Args:
        found: ``boxes``, ``scores``, ``labels`` and, of a model with masks, ``masks`` of a file.
        seen: Height and width of what the network saw.
        size: Those of the picture.
        facts: Of the file.
        score: The least score; None: all.
    """
    kept = found['scores'] >= (-1 if score is None else score)
    scale = np.array([size[1] / seen[1], size[0] / seen[0]] * 2, np.float32)
    boxes = found['boxes'][kept] * scale
    result = {'boxes': boxes, 'scores': found['scores'][kept], 'labels': found['labels'][kept]}
    if 'masks' in found:
        threshold = facts['mask_threshold']
        masks = [pasted(*pair, *size, threshold) for pair in zip(found['masks'][kept], boxes)]
        result['masks'] = np.stack(masks) if masks else np.zeros((0, *size), bool)
    return result


def pasted(
    mask: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float
) -> np.ndarray:
    """The mask of an object in its picture.

    Args:
        mask: ``(h, w)`` probabilities within the box.
        box: x1 y1 x2 y2.
        height: Of the picture.
        width: Likewise.
        threshold: The least probability of a pixel that belongs to the object.

    Returns:
        ``(height, width)`` of bool.
    """
    result = np.zeros((height, width), bool)
    left, top = np.maximum(np.floor(box[:2]).astype(np.int64) - 1, 0)
    right, bottom = np.minimum(np.ceil(box[2:]).astype(np.int64) + 1, (width, height))
    if right <= left or bottom <= top:
        return result
    columns = _within(np.arange(left, right), box[0], box[2], mask.shape[1])
    rows = _within(np.arange(top, bottom), box[1], box[3], mask.shape[0])
    result[top:bottom, left:right] = _sampled(mask, rows, columns) >= threshold
    return result


def _within(pixels: np.ndarray, begin: float, end: float, cells: int) -> np.ndarray:
    """Where centres of pixels lie in the cells of a mask between ``begin`` and ``end``.

    A box without extent has no cells; mmdet takes the centre of its mask then.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
        place = (pixels.astype(np.float32) + np.float32(0.5) - begin) / (end - begin)
    place = np.where(np.isinf(place), np.float32(0.5), place) * np.float32(cells) - np.float32(0.5)
    return np.where(np.isnan(place), np.float32(-2), place)


def _sampled(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear samples of ``mask``, beyond whose border is zero."""
    padded = np.pad(mask.astype(np.float32), 1)
    down, across = (
        np.clip(place + 1, 0, size - 1)
        for place, size in ((rows, padded.shape[0]), (columns, padded.shape[1]))
    )
    low = np.minimum(np.floor(down).astype(np.int64), padded.shape[0] - 2)
    left = np.minimum(np.floor(across).astype(np.int64), padded.shape[1] - 2)
    v, u = (down - low)[:, None], (across - left)[None]
    upper = padded[low][:, left] * (1 - u) + padded[low][:, left + 1] * u
    lower = padded[low + 1][:, left] * (1 - u) + padded[low + 1][:, left + 1] * u
    return upper * (1 - v) + lower * v
