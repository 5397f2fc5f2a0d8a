"""Segmentation sets: what can be wrong with masks, with their names and with their values."""

import shutil

import numpy as np
from PIL import Image

from .cases import Cases
from .sets import HEIGHT, WIDTH, SegmentationSet, picture, sound_mask

CASES = Cases()
REFUSES, SAYS, SILENT = 'refuses', 'says', 'silent'


@CASES.add(
    'mask-binary',
    REFUSES,
    r'0 and 255 alone; value 255 is unlabelled\. A 0/255 mask must become 0/1',
)
def masks_are_0_and_255(data: SegmentationSet):
    data.change_masks(lambda mask: np.where(mask == 1, 255, 0).astype(np.uint8))


@CASES.add('mask-binary', REFUSES, r'0 and 255 alone; both are unlabelled')
def masks_are_0_and_255_where_0_is_unlabelled(data):
    data.reduce_zero_label = True
    data.change_masks(lambda mask: np.where(mask == 1, 255, 0).astype(np.uint8))


@CASES.add('mask-nothing', REFUSES, r'masks of at most one class \(values 0\)')
def masks_are_all_zero(data):
    data.change_masks(np.zeros_like)


@CASES.add('mask-nothing', REFUSES, r'masks of at most one class \(values 255\)')
def masks_are_all_unlabelled(data):
    data.change_masks(lambda mask: np.full_like(mask, 255))


@CASES.add(
    'mask-value',
    REFUSES,
    r'value 3 in \d+ pixels.*count their classes from 1, set reduce',
)
def classes_are_counted_from_1(data):
    data.change_masks(lambda mask: np.where(mask < 255, mask + 1, 255).astype(np.uint8))


@CASES.add('mask-shift', SAYS, r'never 3: .*set reduce_zero_label=False')
def classes_are_counted_from_0_where_0_is_unlabelled(data):
    data.reduce_zero_label = True


@CASES.add('mask-value', REFUSES, r'value 7 in')
def a_mask_has_a_value_that_is_no_class(data):
    mask = sound_mask(1)
    mask[0, 50] = 7
    Image.fromarray(mask).save(data.mask(1))


@CASES.add('mask-value', REFUSES, r'value 127 in')
def masks_are_stretched_to_be_seen(data):
    data.change_masks(lambda mask: np.where(mask < 255, mask * 127, 255).astype(np.uint8))


@CASES.add('mask-channels', REFUSES, r'shape \(72, 96, 3\); a mask has one channel.*convert')
def masks_are_colours(data):
    data.change_masks(lambda mask: np.stack([mask * 60, mask, mask], 2).astype(np.uint8))


@CASES.add('mask-channels', REFUSES, r'shape \(72, 96, 2\)')
def masks_are_grey_with_transparency(data):
    for i in range(4):
        Image.open(data.mask(i)).convert('LA').save(data.mask(i))


@CASES.add('mask-bits', REFUSES, r'values up to 1002')
def masks_have_16_bits(data):
    data.change_masks(
        lambda mask: np.where(mask < 255, mask * np.uint16(501), 255).astype(np.uint16)
    )


@CASES.add('mask-lossy', REFUSES, r'JPEG')
def masks_are_jpeg_files(data):
    for i in range(4):
        Image.open(data.mask(i)).save(data.mask(i), 'JPEG')


@CASES.add('mask-missing', REFUSES, r'train_2\.png')
def a_mask_is_missing(data):
    data.mask(2).unlink()


@CASES.add('mask-missing', REFUSES, r'train_0\.png')
def masks_have_other_names(data):
    for i in range(4):
        data.mask(i).rename(data.mask(i).with_name(f'label_{i}.png'))


@CASES.add('mask-alone', SILENT, r'extra\.png belongs to no image')
def a_mask_has_no_image(data):
    shutil.copy(data.mask(0), data.mask(0).with_name('extra.png'))


@CASES.add('set', REFUSES, r'no \*\.jpg in .*It has 4 \*\.jpeg: set .*\.img_suffix')
def images_have_another_suffix(data):
    for i in range(4):
        data.image(i).rename(data.image(i).with_suffix('.jpeg'))


@CASES.add(
    'image-unused', SAYS, r'(2\.JPG is in no list|3 files end in \.jpg .* 1 \*\.JPG are not)'
)
def an_image_has_another_suffix(data):
    data.image(2).rename(data.image(2).with_suffix('.JPG'))


@CASES.add('size-mask', REFUSES, r'train_2\.png is 48 x 36, but .*train_2\.jpg is 96 x 72')
def a_mask_is_smaller_than_its_image(data):
    Image.open(data.mask(2)).resize((48, 36), Image.Resampling.NEAREST).save(data.mask(2))


@CASES.add('size-mask', REFUSES, r'is 96 x 72, but .* is 72 x 96\. Its EXIF')
def an_exif_tag_turns_the_image_but_not_the_mask(data):
    exif = Image.Exif()
    exif[274] = 6
    picture(2).save(data.image(2), exif=exif)


@CASES.add('file-cut-off', REFUSES, r'train_2\.png .*cut off')
def a_mask_is_cut_off(data):
    noise = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8)
    Image.fromarray(noise).save(data.mask(2))
    data.mask(2).write_bytes(data.mask(2).read_bytes()[:-400])


@CASES.add('file-unreadable', REFUSES, r'train_2\.png .*(no image|cannot be read)')
def a_mask_is_an_array_of_numpy(data):
    with data.mask(2).open('wb') as file:
        np.save(file, sound_mask(2))


@CASES.add('file-cut-off', REFUSES, r'train_1\.jpg .*cut off')
def an_image_is_cut_off(data):
    data.image(1).write_bytes(data.image(1).read_bytes()[:1200])


@CASES.add('mask-unlabelled', SAYS, r'train_2\.png has no labelled pixel, only the value 255')
def a_mask_is_unlabelled(data):
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(data.mask(2))


@CASES.add('class-empty', SAYS, r'masks/train has no pixel of 1 of 3 classes: car')
def a_class_has_no_pixel_in_training(data):
    data.change_masks(lambda mask: np.where(mask == 1, 0, mask).astype(np.uint8), ('train',))


@CASES.add('class-empty', SAYS, r'masks/val has no pixel of 1 of 3 classes: sky')
def a_class_has_no_pixel_in_validation(data):
    data.change_masks(lambda mask: np.where(mask == 2, 0, mask).astype(np.uint8), ('val',))


@CASES.add('mask-small', SILENT, r'1 px of car, less than a cell')
def a_region_is_smaller_than_a_cell(data):
    mask = sound_mask(1)
    mask[mask == 1] = 0
    mask[50, 50] = 1
    Image.fromarray(mask).save(data.mask(1))


@CASES.add('set', REFUSES, r'has road twice')
def a_class_is_listed_twice(data):
    data.classes = ('road', 'car', 'sky', 'road')


@CASES.add('leak', SILENT, r'train_1\.jpg of train is .*val_3\.jpg of val')
def a_validation_image_is_a_training_image(data):
    picture(1).save(data.image(3, 'val'), quality=50)


@CASES.add('set', REFUSES, r'states no classes')
def no_classes_are_stated(data):
    data.classes = ()


@CASES.add('set', REFUSES, r'the folder .*masks/train \(data_prefix\.seg_map_path\) does not exist')
def the_folder_of_masks_is_missing(data):
    shutil.rmtree(data.root / 'masks' / 'train')
