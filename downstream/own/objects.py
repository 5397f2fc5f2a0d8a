"""Boxes or masks: what a detection set allows, and what the user asks for."""

from __future__ import annotations

from dataclasses import replace

from backbones.errors import ConfigError, DataError
from downstream.data.formats.found import Found, Instances, counts


def choose_objects(found: Found, wanted: str | None) -> tuple[bool, Found]:
    """Whether boxes alone are trained, and the set to train.

    An object without a mask must not become background for a mask head, so masks are trained on images
    whose objects all have one.

    Args:
        found: A set of any task.
        wanted: ``'boxes'``, ``'masks'`` or None: masks if every object has one, else boxes.

    Raises:
        ConfigError: Boxes or masks are asked for of masks of images.
        DataError: Masks are asked for, and no image of a part is left.
    """
    if found.task != 'detection':
        if wanted:
            raise ConfigError(f'--{wanted} is for detection; {found.format} are for segmentation.')
        return False, found
    parts = counts(found).values()
    objects = sum(part.objects - part.crowds for part in parts)
    missing = sum(part.without_mask for part in parts)
    if wanted == 'boxes':
        return True, found.with_notes(
            f'boxes alone are trained, as asked; {objects - missing} of {objects} objects have a mask'
        )
    if not missing:
        return False, found
    if wanted == 'masks':
        return False, _images_with_all_masks(found)
    if missing == objects:
        return True, found.with_notes('no object has a mask: boxes alone are trained')
    kept, images = (
        sum(len(part.coco['images']) for part in _instances(some).values())
        for some in (_images_with_all_masks(found, strict=False), found)
    )
    return True, found.with_notes(
        f'{missing} of {objects} objects have no mask: boxes alone are trained; --masks trains masks on '
        f'the {kept} of {images} images whose objects all have one'
    )


def _instances(found: Found) -> dict[str, Instances]:
    """The parts of a set for detection."""
    return {name: part for name, part in found.parts.items() if isinstance(part, Instances)}


def _images_with_all_masks(found: Found, strict: bool = True) -> Found:
    """The images of a set without an object that has a box alone."""
    parts, notes = {}, []
    for name, part in _instances(found).items():
        parts[name] = _with_all_masks(part)
        kept, images = len(parts[name].coco['images']), len(part.coco['images'])
        if strict and images and not kept:
            raise DataError(
                f'--masks: no image of the part {name!r} has a mask for all of its objects; train boxes.'
            )
        if kept < images:
            notes.append(
                f'{name}: {images - kept} of {images} images have an object without a mask and are left '
                'out'
            )
    return replace(found, parts=parts).with_notes(*notes)


def _with_all_masks(part: Instances) -> Instances:
    coco = part.coco
    incomplete = {
        one['image_id']
        for one in coco['annotations']
        if not one.get('iscrowd') and not one.get('segmentation')
    }
    if not incomplete:
        return part
    return replace(
        part,
        file=None,
        coco={
            **coco,
            'images': [image for image in coco['images'] if image['id'] not in incomplete],
            'annotations': [
                one for one in coco['annotations'] if one['image_id'] not in incomplete
            ],
        },
    )
