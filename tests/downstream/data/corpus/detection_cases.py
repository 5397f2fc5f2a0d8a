"""Detection sets: what can be wrong with files and with COCO annotations."""

import json
import shutil

import numpy as np
from PIL import Image

from .cases import Cases
from .sets import HEIGHT, WIDTH, DetectionSet, picture, rectangle

CASES = Cases()
REFUSES, SAYS, SILENT = 'refuses', 'says', 'silent'


@CASES.add('file-missing', REFUSES, r'train_1\.png')
def an_image_is_missing(data: DetectionSet):
    data.image(1).unlink()


@CASES.add('file-missing', REFUSES, r'train_1\.png (does not exist|\(there is train_1\.PNG\))')
def the_suffix_of_an_image_has_other_letters(data):
    data.image(1).rename(data.image(1).with_suffix('.PNG'))


@CASES.add('file-missing', REFUSES, r'train\\train_0\.png')
def names_have_backslashes(data):
    for image in data.train['images']:
        image['file_name'] = 'train\\' + image['file_name']


@CASES.add('file-cut-off', REFUSES, r'train_1\.png .*cut off')
def an_image_is_cut_off(data):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(noise).save(data.image(1))
    data.image(1).write_bytes(data.image(1).read_bytes()[:9000])


@CASES.add('file-unreadable', REFUSES, r'train_1\.png .*(no image|cannot be read)')
def an_image_is_a_text(data):
    data.image(1).write_text('<html>404</html>')


@CASES.add('file-unreadable', REFUSES, r'train_1\.png .*(is empty|cannot be read)')
def an_image_is_empty(data):
    data.image(1).write_bytes(b'')


@CASES.add('size', REFUSES, r'is 96 x 72, but .*train\.json says 72 x 96')
def width_and_height_are_swapped(data):
    data.train['images'][0].update(width=HEIGHT, height=WIDTH)


@CASES.add('size', REFUSES, r'is 48 x 36, but .* says 96 x 72')
def images_were_scaled_but_not_their_annotations(data):
    for i in range(4):
        picture(i).resize((48, 36)).save(data.image(i))


@CASES.add('size', REFUSES, r'EXIF tag turns it')
def an_exif_tag_turns_an_annotated_image(data):
    exif = Image.Exif()
    exif[274] = 6
    picture(0).save(data.image(0), exif=exif)


@CASES.add('turned', SILENT, r'turned to 96 x 72 by its EXIF tag')
def an_exif_tag_turns_an_image_that_is_annotated_as_shown(data):
    exif = Image.Exif()
    exif[274] = 6
    picture(0).transpose(Image.Transpose.ROTATE_90).save(data.image(0), exif=exif)


@CASES.add('suffix', SILENT, r'is JPEG, whatever its name says')
def a_jpeg_is_called_png(data):
    picture(0).save(data.image(0), 'JPEG')


@CASES.add('channels', SILENT, r'is grey')
def an_image_is_grey(data):
    picture(0).convert('L').save(data.image(0))


@CASES.add('channels', SILENT, r'is RGB with transparency')
def an_image_has_transparency(data):
    picture(0).convert('RGBA').save(data.image(0))


@CASES.add('channels', SILENT, r'is colours of a palette')
def an_image_has_a_palette(data):
    picture(0).convert('P').save(data.image(0))


@CASES.add('channels', SILENT, r'is CMYK')
def an_image_is_cmyk(data):
    picture(0).convert('CMYK').save(data.image(0), 'JPEG')


@CASES.add('bits', SILENT, r'more than 8 bits a channel')
def an_image_has_16_bits(data):
    grey = np.asarray(picture(0).convert('L')).astype(np.uint16) * 257
    Image.fromarray(grey).save(data.image(0))


@CASES.add('frames', SILENT, r'holds 3 images')
def a_file_holds_several_images(data):
    frames = [picture(50 + i) for i in range(2)]
    picture(0).save(data.image(0), 'GIF', save_all=True, append_images=frames)


@CASES.add('blank', SILENT, r'has one colour')
def an_image_is_blank(data):
    Image.new('RGB', (WIDTH, HEIGHT), (9, 9, 9)).save(data.image(0))


@CASES.add('tiny', SILENT, r'has 24 x 18 px')
def an_image_is_tiny(data):
    picture(0).resize((24, 18)).save(data.image(0))
    data.train['images'][0].update(width=24, height=18)
    data.train['annotations'] = [one for one in data.train['annotations'] if one['image_id'] != 1]


@CASES.add('duplicate', SILENT, r'train_0\.png is the same or nearly the same as .*train_1\.png')
def two_images_of_training_are_the_same(data):
    shutil.copy(data.image(0), data.image(1))


@CASES.add('leak', SILENT, r'train_0\.png of train is .* as .*val_2\.png of val')
def a_validation_image_is_a_scaled_training_image(data):
    picture(0).resize((192, 144)).resize((WIDTH, HEIGHT)).save(data.image(2, 'val'), quality=40)


@CASES.add('leak', SAYS, r'val_dataloader\.dataset reads the data that are trained on')
def training_is_validated_on(data):
    original = data.config

    def config():
        cfg = original()
        cfg.val_dataloader.dataset.update(
            ann_file='train.json', data_prefix=dict(img='train/'), test_mode=True
        )
        return cfg

    data.config = config


@CASES.add('image-unused', SILENT, r'extra\.png is in no list')
def an_image_is_in_no_list(data):
    picture(77).save(data.root / 'train' / 'extra.png')


@CASES.add(
    'image-twice', SAYS, r'image 1 is of the same file as image 9: train_0\.png|image 9 is of'
)
def an_image_is_listed_twice(data):
    data.train['images'].append({**data.train['images'][0], 'id': 9})


@CASES.add('image-unknown', REFUSES, r'train_dataloader|image 99')
def the_second_of_two_joined_sets_is_broken(data):
    original = data.config

    def config():
        cfg = original()
        first = cfg.train_dataloader.dataset.to_dict()
        broken = json.loads((data.root / 'train.json').read_text())
        broken['annotations'][0]['image_id'] = 99
        (data.root / 'second.json').write_text(json.dumps(broken))
        cfg.train_dataloader.dataset = dict(
            type='RepeatDataset',
            times=2,
            dataset=dict(
                type='ConcatDataset', datasets=[first, {**first, 'ann_file': 'second.json'}]
            ),
        )
        return cfg

    data.config = config


@CASES.add('image-id', REFUSES, r'image 1 is there twice')
def two_images_have_one_id(data):
    data.train['images'][1]['id'] = 1


@CASES.add('record', REFUSES, r'an entry of images lacks height')
def an_image_has_no_height(data):
    del data.train['images'][0]['height']


@CASES.add('record', REFUSES, r'an entry of annotations lacks bbox')
def an_annotation_has_no_box(data):
    del data.train['annotations'][3]['bbox']


@CASES.add('record', REFUSES, r'an entry of annotations lacks category_id')
def an_annotation_has_no_category(data):
    data.train['annotations'][3]['category_id'] = None


@CASES.add('set', REFUSES, r'is no JSON or is cut off')
def the_json_is_cut_off(data):
    data.config()
    text = (data.root / 'train.json').read_text()
    data.config = written(data, text[: len(text) // 2])


@CASES.add('set', REFUSES, r'is no JSON')
def the_json_is_not_utf_8(data):
    data.classes = ('bolt', 'für')
    for part in (data.train, data.val):
        part['categories'][1]['name'] = 'für'
    data.config = written(data, json.dumps(data.train, ensure_ascii=False).encode('latin-1'))


@CASES.add('set', REFUSES, r'is no JSON')
def the_json_begins_with_a_byte_order_mark(data):
    data.config = written(data, '\ufeff' + json.dumps(data.train))


@CASES.add('set', REFUSES, r'has no list images, annotations, categories')
def the_file_is_of_labelme(data):
    data.config = written(data, json.dumps(dict(shapes=[], imagePath='a.png')))


@CASES.add('set', REFUSES, r'has no list images')
def the_file_is_a_list_of_results(data):
    data.config = written(data, json.dumps(data.train['annotations']))


def written(data: DetectionSet, text: str | bytes):
    """``data.config`` with other training annotations than its own."""
    original = data.config

    def config():
        cfg = original()
        content = text if isinstance(text, bytes) else text.encode()
        (data.root / 'train.json').write_bytes(content)
        return cfg

    return config


@CASES.add('no-images', REFUSES, r'lists no images')
def there_are_no_images(data):
    data.train.update(images=[], annotations=[])


@CASES.add('image-unknown', REFUSES, r'belongs to image 99, which the file does not list')
def an_annotation_is_of_no_image(data):
    data.train['annotations'][3]['image_id'] = 99


@CASES.add(
    'image-unknown', REFUSES, r"image '1', which the file does not list: it lists it as a number"
)
def an_image_id_is_a_text(data):
    data.train['annotations'][3]['image_id'] = '1'


@CASES.add('category-unknown', REFUSES, r"category '3'.*lists it as a number, and this is a text")
def a_category_id_is_a_text(data):
    data.train['annotations'][3]['category_id'] = '3'


@CASES.add('category-unknown', REFUSES, r'has category 0, which the file does not list')
def category_ids_are_places_in_the_list(data):
    for annotation in data.train['annotations']:
        annotation['category_id'] = {3: 0, 7: 1}[annotation['category_id']]


@CASES.add('category-id', REFUSES, r'category 3 is there twice')
def two_categories_have_one_id(data):
    data.train['categories'][1]['id'] = 3


@CASES.add('category-name', REFUSES, r"class 'bolt' has two categories")
def two_categories_have_one_name(data):
    data.train['categories'].append(dict(id=9, name='bolt'))


@CASES.add('category-alike', SAYS, r"class 'Bolt' and 'bolt' look alike")
def a_class_is_spelt_in_two_ways(data):
    data.classes = ('bolt', 'nut', 'Bolt')
    for part in (data.train, data.val):
        part['categories'].append(dict(id=9, name='Bolt'))
        part['annotations'] += [
            {
                **one,
                'id': one['id'] + 100,
                'category_id': 9,
                'bbox': [40 + j, 30, 20, 20],
                'segmentation': rectangle(40 + j, 30, 20, 20),
            }
            for j, one in enumerate(part['annotations'][:10])
        ]


@CASES.add('category-background', SAYS, r"'background' is a class of objects")
def background_is_a_class(data):
    data.classes = ('bolt', 'background')
    for part in (data.train, data.val):
        part['categories'][1]['name'] = 'background'


@CASES.add('id-repeated', SAYS, r'annotation 1 is there twice.*numbered anew')
def annotations_have_one_id(data):
    for annotation in data.train['annotations']:
        annotation['id'] = 1


@CASES.add('id-missing', SAYS, r'has no id.*numbered')
def annotations_have_no_ids(data):
    for annotation in data.train['annotations']:
        del annotation['id']


@CASES.add('id-odd', SAYS, r'annotation 0 has an id that is no whole number .*numbered anew')
def annotations_count_from_0(data):
    for number, annotation in enumerate(data.train['annotations']):
        annotation['id'] = number


@CASES.add('area-missing', SAYS, r'has no area.*computed')
def annotations_have_no_areas(data):
    for annotation in data.train['annotations']:
        del annotation['area']


@CASES.add('crowd-missing', SAYS, r'has no iscrowd.*single object')
def annotations_have_no_iscrowd(data):
    for annotation in data.train['annotations']:
        del annotation['iscrowd']


@CASES.add('box-numbers', REFUSES, r"bbox \['12', .*four numbers")
def a_box_is_of_texts(data):
    data.train['annotations'][3]['bbox'] = ['12', '3', '4', '5']


@CASES.add('box-numbers', REFUSES, r'four numbers')
def a_box_has_three_numbers(data):
    data.train['annotations'][3]['bbox'] = [1, 2, 3]


@CASES.add('box-numbers', REFUSES, r'bbox \[nan, .*four numbers')
def a_box_is_not_a_number(data):
    data.train['annotations'][3]['bbox'] = [float('nan'), 2, 3, 4]


@CASES.add(
    'box-xyxy', REFUSES, r'end outside of their image, and none as corners.*x, y, width, height'
)
def boxes_are_corners(data):
    data.boxes_only()
    for annotation in data.train['annotations']:
        x, y, width, height = annotation['bbox']
        annotation['bbox'] = [x, y, x + width, y + height]


@CASES.add('box-fractions', REFUSES, r'fractions of the image.*in pixels')
def boxes_are_fractions(data):
    data.boxes_only()
    for annotation in data.train['annotations']:
        x, y, width, height = annotation['bbox']
        annotation['bbox'] = [x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT]


@CASES.add('segment-box', SAYS, r'but its mask is in')
def boxes_begin_at_their_centre(data):
    for annotation in data.train['annotations']:
        x, y, width, height = annotation['bbox']
        annotation['bbox'] = [x + width / 2, y + height / 2, width, height]


@CASES.add('segment-box', SAYS, r'but its mask is in')
def boxes_and_polygons_were_scaled_differently(data):
    for annotation in data.train['annotations']:
        annotation['bbox'] = [value / 2 for value in annotation['bbox']]


@CASES.add('box-sticks-out', SAYS, r'bbox \[80, 60, 300, 200\] in an image of 96 x 72')
def a_box_ends_far_outside(data):
    data.boxes_only()
    data.train['annotations'][3].update(bbox=[80, 60, 300, 200])


@CASES.add('box-outside', SAYS, r'outside of')
def a_box_is_outside(data):
    data.boxes_only()
    data.train['annotations'][3].update(bbox=[500, 500, 20, 20])


@CASES.add('box-flat', SAYS, r'(thinner than 1 px|area 0)')
def a_box_has_no_width(data):
    data.boxes_only()
    data.train['annotations'][3].update(bbox=[5, 5, 0, 20], area=0)


@CASES.add('box-flat', SAYS, r'(negative size|bbox \[50, 50, -20, -20\])')
def a_box_has_a_negative_size(data):
    data.boxes_only()
    data.train['annotations'][3].update(bbox=[50, 50, -20, -20])


@CASES.add('area-missing', SAYS, r'has no area.*computed')
def areas_are_zero(data):
    for annotation in data.train['annotations']:
        annotation['area'] = 0


@CASES.add('box-twice', SAYS, r'has the box of annotation 4')
def a_box_is_there_twice(data):
    data.train['annotations'].append({**data.train['annotations'][3], 'id': 99})


@CASES.add(
    'box-twice', SAYS, r'24 boxes are there twice|annotation 101 has the box of annotation 1'
)
def every_box_is_there_twice(data):
    data.train['annotations'] += [
        {**one, 'id': one['id'] + 100} for one in data.train['annotations']
    ]


@CASES.add('box-two-classes', SAYS, r'has the box of annotation 1 and another class')
def a_box_has_two_classes(data):
    data.train['annotations'].append({**data.train['annotations'][0], 'id': 99, 'category_id': 7})


@CASES.add('box-thin', SILENT, r'80 times as long as wide')
def a_box_is_extremely_thin(data):
    data.boxes_only()
    data.train['annotations'][3].update(bbox=[5, 5, 80, 1])


@CASES.add('box-small', SILENT, r'is 1.5 x 1.5 px, 3 x 3 when trained; a cell .* has 4 px')
def an_object_is_smaller_than_a_cell(data):
    data.boxes_only()
    data.train['annotations'][3].update(bbox=[5, 5, 1.5, 1.5])


@CASES.add(
    'segment-missing',
    REFUSES,
    r'(no mask; 23 of 24 have|1 of 24 annotations .* no segmentation)',
)
def an_annotation_has_no_mask(data):
    data.train['annotations'][3]['segmentation'] = []


@CASES.add('run', REFUSES, r'24 of 24 annotations of .* have no segmentation')
def no_annotation_has_a_mask_but_the_model_has(data):
    for annotation in data.train['annotations']:
        del annotation['segmentation']


@CASES.add('segment-form', REFUSES, r'must be a list of polygons')
def a_polygon_is_not_in_a_list(data):
    one = data.train['annotations'][3]
    one['segmentation'] = one['segmentation'][0]


@CASES.add('segment-form', REFUSES, r'odd number of coordinates')
def a_polygon_has_an_odd_number_of_coordinates(data):
    data.train['annotations'][3]['segmentation'][0].append(5)


@CASES.add('segment-form', REFUSES, r'pairs of points must be')
def a_polygon_is_of_pairs(data):
    data.train['annotations'][3]['segmentation'] = [[[5, 5], [20, 5], [20, 30], [5, 30]]]


@CASES.add('segment-form', REFUSES, r'run lengths of size \[96, 72\].*height first')
def run_lengths_are_of_another_size(data):
    counts = [0, WIDTH * HEIGHT]
    data.train['annotations'][3]['segmentation'] = dict(size=[WIDTH, HEIGHT], counts=counts)


@CASES.add('segment-form', REFUSES, r'run lengths of 10 pixels; its image has 6912')
def run_lengths_do_not_add_up(data):
    data.train['annotations'][3]['segmentation'] = dict(size=[HEIGHT, WIDTH], counts=[4, 6])


@CASES.add('segment-form', REFUSES, r'of type str')
def a_mask_is_a_text(data):
    data.train['annotations'][3]['segmentation'] = 'POLYGON ((1 1, 2 2))'


@CASES.add('segment-flat', SAYS, r'polygon of 2 points without area')
def a_polygon_has_two_points(data):
    data.train['annotations'][3]['segmentation'] = [[5, 5, 20, 20]]


@CASES.add('segment-flat', SAYS, r'polygon of 3 points without area')
def a_polygon_is_a_line(data):
    data.train['annotations'][3]['segmentation'] = [[5, 5, 20, 20, 30, 30]]


@CASES.add('segment-outside', SAYS, r'polygons from .* to \(400, 300\) in an image of 96 x 72')
def a_polygon_leaves_its_image(data):
    data.train['annotations'][3]['segmentation'] = [[5, 5, 400, 5, 400, 300, 5, 300]]


@CASES.add('class-unknown', REFUSES, r'no category bolts')
def a_class_of_the_config_is_misspelt(data):
    data.classes = ('bolts', 'nut')


@CASES.add('class-text', SAYS, r"is the text 'bolt', not a tuple.*comma")
def the_comma_is_forgotten(data):
    data.classes = 'bolt'


@CASES.add('class-repeated', REFUSES, r'has bolt twice')
def a_class_is_listed_twice(data):
    data.classes = ('bolt', 'nut', 'bolt')


@CASES.add('class-empty', SAYS, r'train\.json has no object of 1 of 2 classes: nut')
def a_class_has_no_object_in_training(data):
    data.train['annotations'] = [
        one for one in data.train['annotations'] if one['category_id'] == 3
    ]


@CASES.add('class-empty', SAYS, r'val\.json has no object of 1 of 2 classes: nut')
def a_class_has_no_object_in_validation(data):
    data.val['annotations'] = [one for one in data.val['annotations'] if one['category_id'] == 3]


@CASES.add('class-unknown', REFUSES, r'val\.json .*no category nut')
def validation_does_not_list_a_class(data):
    data.val['annotations'] = [one for one in data.val['annotations'] if one['category_id'] == 3]
    del data.val['categories'][1]


@CASES.add('class-rare', SILENT, r'fewer than 10 objects of 1 classes: nut \(2\)')
def a_class_has_hardly_any_object(data):
    nuts = [one for one in data.train['annotations'] if one['category_id'] == 7]
    data.train['annotations'] = [one for one in data.train['annotations'] if one not in nuts[2:]]


@CASES.add('no-annotations', SILENT, r'has 1 images without annotations among 4')
def an_image_has_no_annotations(data):
    data.train['annotations'] = data.train['annotations'][6:]
    data.train['annotations'] += [
        {
            **one,
            'id': one['id'] + 100,
            'bbox': [one['bbox'][0] + 2, one['bbox'][1] + 9, 19, 19],
            'segmentation': rectangle(one['bbox'][0] + 2, one['bbox'][1] + 9, 19, 19),
        }
        for one in data.train['annotations'][:6]
    ]
