"""The kinds of findings: how severe, what several are called, and the fix."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """What findings of a kind have in common.

    Attributes:
        severity: ``'error'``, ``'repaired'`` or ``'warning'``.
        several: What more than one are called, after their number.
        fix: What to do, a sentence; empty where nothing need be done.
    """

    severity: str
    several: str
    fix: str = ''


def _error(several: str, fix: str = '') -> Kind:
    return Kind('error', several, fix)


def _warning(several: str, fix: str = '') -> Kind:
    return Kind('warning', several, fix)


def _repaired(several: str, fix: str = '') -> Kind:
    return Kind('repaired', several, fix)


_CONVERT = '`python tools/data.py convert` makes index masks.'
KINDS: dict[str, Kind] = {
    # The whole set
    'set': _error('reasons why the data set cannot be read'),
    'run': _error('reasons why a run would stop'),
    'reader': _warning('notes of the reader'),
    'unknown-type': _warning('data sets are of a type that is not examined'),
    # Files
    'file-missing': _error('files are missing', 'Add what is missing, or remove the entry.'),
    'file-unreadable': _error('files cannot be read', 'Save the image again, or remove the entry.'),
    'file-cut-off': _error('files are cut off', 'Copy it again.'),
    'bands': _error(
        'images cannot be loaded as they are', 'See docs/data.md, "Images that are not 8-bit RGB".'
    ),
    'not-finite': _error(
        'images have values that are NaN or infinite',
        "Give the config's LoadBands a value in their place, e.g. fill=0.0.",
    ),
    'file-outside': _error('names lead out of the data set'),
    'size': _error('images have another size than stated'),
    'size-mask': _error('masks have another size than their image'),
    'turned': _warning(
        'images are turned by 90 degrees by their EXIF tag when they are loaded',
        'Annotations must lie on the image as it is shown.',
    ),
    'bits': _warning(
        'images have more than 8 bits', 'Loading reduces that to 8; --bands 1 2 3 keeps them.'
    ),
    'channels': _warning('images are not RGB', 'Loading makes three channels of it.'),
    'frames': _warning('files hold several images', 'The first one is loaded.'),
    'suffix': _warning('files are of another format than their suffix says'),
    'blank': _warning('images have one colour'),
    'huge': _warning('images are very large', 'Objects shrink with the image: cut it into tiles.'),
    'tiny': _warning('images are smaller than 32 px'),
    'duplicate': _warning('groups of images are the same or nearly the same'),
    'leak': _warning(
        'groups of images are in training and in another part',
        'Figures of validation and test are too good then.',
    ),
    # Records of COCO files
    'record': _error('records are incomplete'),
    'no-images': _error('files list no images'),
    'image-id': _error('images have the id of another one', 'Give every image an id of its own.'),
    'image-twice': _warning(
        'entries are of an image that has another entry', 'Merge the entries of an image.'
    ),
    'image-unused': _warning('images are in no annotation file'),
    'category-id': _error('categories have the id of another one'),
    'category-name': _error('categories have the name of another one', 'Merge or rename them.'),
    'category-alike': _warning(
        'names of classes differ in case or spaces alone', 'Is one a misspelling?'
    ),
    'category-background': _warning(
        'classes are a background', 'Detectors have one of their own: leave it out.'
    ),
    'image-unknown': _error('annotations belong to images that the file does not list'),
    'category-unknown': _error('annotations have categories that the file does not list'),
    'id-missing': _repaired('annotations have no id', 'It is numbered in memory.'),
    'id-repeated': _repaired(
        'annotations have the id of another one', 'It is numbered anew in memory.'
    ),
    'id-odd': _repaired(
        'annotations have an id that is no whole number above 0',
        "COCO's evaluation takes a match with 0 for a miss: it is numbered anew in memory.",
    ),
    'area-missing': _repaired(
        'annotations have no area', 'It is computed from the mask, else from the box.'
    ),
    'crowd-missing': _repaired('annotations have no iscrowd', 'It counts as a single object.'),
    'no-annotations': _warning('files have images without any annotation'),
    # Boxes
    'box-numbers': _error('annotations have no box of four numbers'),
    'box-xyxy': _error(
        'files have boxes that end outside of their image', 'COCO boxes are x, y, width, height.'
    ),
    'box-fractions': _error(
        'files have boxes in fractions of their image', 'COCO boxes are in pixels.'
    ),
    'box-flat': _warning('boxes are thinner than 1 px or without area', 'Training leaves it out.'),
    'box-outside': _warning('boxes are outside of their image', 'Training leaves it out.'),
    'box-sticks-out': _warning(
        'boxes end outside of their image', 'Training cuts it at the border.'
    ),
    'box-twice': _warning('boxes are there twice', 'Each counts as an object: remove one.'),
    'box-two-classes': _warning('boxes have two classes', 'Each counts as an object: remove one.'),
    'box-thin': _warning('boxes have an extreme aspect ratio'),
    'box-small': _warning(
        'objects are smaller than the network can see',
        'Train at a larger size (docs/data.md, "Check your data"), or cut the images into tiles.',
    ),
    'box-whole': _warning('boxes cover their whole image'),
    # Masks of objects
    'segment-missing': _warning(
        'annotations have no mask', 'A model with a mask head refuses them.'
    ),
    'segment-form': _error('masks of objects cannot be read'),
    'segment-flat': _warning('polygons have no area', 'Such a mask is empty: remove the polygon.'),
    'segment-outside': _warning('polygons leave their image'),
    'segment-box': _warning(
        'boxes do not match the mask of their object',
        'One of the two is wrong: x, y, width, height in pixels of the image as it is shown?',
    ),
    # Classes
    'class-unknown': _error('classes are not in the annotations'),
    'class-text': _warning('lists of classes are one text', 'Add a comma: (...,).'),
    'class-repeated': _error('lists of classes name one twice', 'Remove one.'),
    'class-empty': _warning('parts lack classes', 'Nothing can be learnt or judged of them there.'),
    'class-rare': _warning('parts have few objects of a class'),
    # Segmentation masks
    'mask-missing': _error('images have no mask', 'Add the masks, or remove the images.'),
    'mask-alone': _warning('masks have no image'),
    'mask-channels': _error('masks have several channels', f'A mask has one. {_CONVERT}'),
    'mask-bits': _error('masks have more than 8 bits', f'Class indices fit into 8. {_CONVERT}'),
    'mask-lossy': _error('masks are JPEG files', 'That changes class indices: save masks as PNG.'),
    'mask-value': _error('masks have values that are no class'),
    'mask-binary': _error(
        'sets of masks have only 0 and 255', f'A 0/255 mask must become 0/1. {_CONVERT}'
    ),
    'mask-nothing': _error('sets of masks have one class at most', 'There is nothing to learn.'),
    'mask-shift': _warning('sets of masks may count their classes from 0'),
    'mask-unlabelled': _warning('masks have no labelled pixel'),
    'mask-small': _warning(
        'regions are smaller than the network can see',
        'Train at a larger size (docs/data.md, "Check your data").',
    ),
}
