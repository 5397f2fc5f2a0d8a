"""COCO files as tools write them: read whole, repaired where that needs no guess, else refused."""

import copy
import json
import os
import re
from codecs import BOM_UTF8
from pathlib import Path

import numpy as np
import pytest

from backbones.errors import DataError
from downstream.data.formats.find import find
from downstream.data.formats.found import counts
from downstream.data.formats.write import write

from .writers import NAMES, link_images, pixels_of, targets


@pytest.fixture
def written(tmp_path, images):
    """Write annotations beside links to the images, and read them."""

    def write(coco, place='annotations.json', folder='images'):
        target = tmp_path / 'set'
        if not target.exists():
            (target / folder).mkdir(parents=True)
            for image in images.iterdir():
                (target / folder / image.name).symlink_to(image)
        path = target / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(coco))
        return find(target, 'detection')

    return write


def whole(found):
    return found.parts['all'].coco


def test_a_complete_file_is_used_as_it_is(coco, written):
    found = written(coco)
    part = found.parts['all']
    assert (found.format, found.task, found.classes) == ('COCO', 'detection', NAMES)
    assert part.file.name == 'annotations.json'
    assert part.root.name == 'images'
    assert part.coco == coco
    assert found.notes == ()
    crowds = sum(one['iscrowd'] for one in coco['annotations'])
    assert counts(found)['all'].crowds == crowds > 0


def test_given_parts(coco, images, tmp_path):
    """Roboflow's folders, COCO's own, and FiftyOne's."""
    for part in ('train', 'valid', 'test'):
        link_images(coco, images, tmp_path / 'roboflow' / part)
        (tmp_path / 'roboflow' / part / '_annotations.coco.json').write_text(json.dumps(coco))
    found = find(tmp_path / 'roboflow')
    assert list(found.parts) == ['train', 'val', 'test']
    assert found.parts['val'].root == tmp_path / 'roboflow' / 'valid'

    for part in ('train2017', 'val2017'):
        link_images(coco, images, tmp_path / 'coco' / part)
        for kind in ('instances', 'person_keypoints'):
            path = tmp_path / 'coco' / 'annotations' / f'{kind}_{part}.json'
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(coco))
    found = find(tmp_path / 'coco')
    assert list(found.parts) == ['train', 'val']
    assert found.parts['train'].root == tmp_path / 'coco' / 'train2017'
    assert 'instances_train2017.json is read, person_keypoints_train2017.json not' in found.notes[0]

    link_images(coco, images, tmp_path / 'fiftyone' / 'data')
    (tmp_path / 'fiftyone' / 'labels.json').write_text(json.dumps(coco))
    assert find(tmp_path / 'fiftyone').parts['all'].root == tmp_path / 'fiftyone' / 'data'


def test_a_byte_order_mark_is_left_out(coco, images, tmp_path):
    """mmdet reads JSON without one; the file that is trained from must have none."""
    link_images(coco, images, tmp_path / 'set')
    (tmp_path / 'set' / 'a.json').write_bytes(BOM_UTF8 + json.dumps(coco).encode())
    found = find(tmp_path / 'set')
    assert 'the byte-order mark, which mmdet does not read' in found.notes[0]
    written = write(found, tmp_path / 'out').datasets['all']['ann_file']
    assert json.loads(Path(written).read_text()) == coco


def test_files_of_unknown_parts_are_named(coco, images, tmp_path):
    link_images(coco, images, tmp_path / 'images')
    for name in ('first', 'second'):
        (tmp_path / f'{name}.json').write_text(json.dumps(coco))
    with pytest.raises(DataError, match='2 COCO files, and it is not clear which is training'):
        find(tmp_path)
    assert targets(whole(find(tmp_path / 'second.json'))) == targets(coco)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (lambda a: a.pop('area'), 'missing areas computed'),
        (lambda a: a.update(area=0), 'missing areas computed'),
        (lambda a: a.update(area=None), 'missing areas computed'),
        (lambda a: a.pop('iscrowd'), 'missing iscrowd is 0'),
        (lambda a: a.update(iscrowd=False), 'missing iscrowd is 0'),
        (lambda a: a.update(bbox=[str(v) for v in a['bbox']]), 'boxes that were texts are numbers'),
        (lambda a: a.update(category_id=str(a['category_id'])), 'ids of categories in annotations'),
        (lambda a: a.update(image_id=str(a['image_id'])), 'ids of images in annotations'),
        (lambda a: a.update(id=1), 'ids of annotations that repeat'),
        (lambda a: a.update(id='x'), 'ids of annotations that are no numbers above 0'),
        (lambda a: a.pop('id'), 'missing ids of annotations'),
        (lambda a: a.update(id=0), 'takes a match for a miss'),
        (lambda a: a.update(segmentation=a['segmentation'][0]), 'nested as in COCO'),
        (
            lambda a: a.update(
                segmentation=[np.reshape(p, (-1, 2)).tolist() for p in a['segmentation']]
            ),
            'nested as in COCO',
        ),
        (lambda a: a['segmentation'].append([1, 2, 3, 4]), 'less than 3 points left out'),
        (lambda a: a.pop('bbox'), 'missing boxes computed'),
    ],
)
def test_what_is_repaired_in_an_annotation(singles, written, change, reason):
    expected = copy.deepcopy(singles)
    last = singles['annotations'][-1]
    change(last)
    found = written(singles)
    (note,) = found.notes
    assert reason in note
    part = found.parts['all']
    assert part.file is None
    if 'boxes computed' in reason:  # around the points, which are centres of pixels
        box = expected['annotations'][-1]['bbox']
        repaired = part.coco['annotations'][-1]['bbox']
        assert repaired == pytest.approx([box[0], box[1], box[2] - 1, box[3] - 1])
        return
    assert targets(part.coco, True) == targets(expected, True)
    assert part.coco['annotations'][-1]['area'] == pytest.approx(
        expected['annotations'][-1]['area'], rel=0.35
    )
    ids = [one['id'] for one in part.coco['annotations']]
    assert len(set(ids)) == len(ids)
    assert min(ids) > 0


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda c: c['annotations'][0].update(image_id=77), 'belongs to image 77, which the file'),
        (lambda c: c['annotations'][0].update(category_id='9'), "has category '9', which the file"),
        (lambda c: c['annotations'][0].update(bbox=[1, 2, 3]), r'has bbox \[1, 2, 3\]; it must be'),
        (lambda c: c['annotations'][0].update(bbox=[1, 2, 3, float('nan')]), 'finite numbers'),
        (lambda c: c['annotations'][0].update(bbox=None, segmentation=[]), 'has bbox None'),
        (lambda c: c['annotations'][0].update(segmentation=[[1, 2, 3, 4, 5]]), 'no list of x, y'),
        (lambda c: c['annotations'][0].update(segmentation={'size': [1, 1]}), 'without counts'),
        (lambda c: c['images'][1].update(id=c['images'][0]['id']), 'were two files merged'),
        (lambda c: c['images'][1].update(file_name='lost.jpg'), r'1 of 4 images .*lost\.jpg'),
        (lambda c: c['images'][1].pop('file_name'), 'an image lacks its id or file_name'),
        (lambda c: c['categories'][1].update(id=1), '1 is the id of 2 categories'),
        (lambda c: c['categories'][1].pop('name'), 'a category lacks its id or name'),
        (lambda c: c.update(annotations={}), 'has no list annotations'),
        (lambda c: c.update(images=[]), 'lists no images'),
        (lambda c: c['annotations'].append([]), 'is no JSON object'),
    ],
)
def test_what_is_refused(singles, written, change, message):
    change(singles)
    with pytest.raises(DataError, match=message):
        written(singles)


def test_a_cut_off_file_is_said(coco, images, tmp_path):
    link_images(coco, images, tmp_path / 'images')
    text = json.dumps(coco)
    (tmp_path / 'a.json').write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=r'a\.json is no JSON or is cut off'):
        find(tmp_path / 'a.json')


def test_a_link_to_nowhere_is_said(coco, images, tmp_path):
    """As of a folder that was moved."""
    link_images(coco, images, tmp_path / 'images')
    (tmp_path / 'val.json').write_text(json.dumps(coco))
    (tmp_path / 'train.json').symlink_to(tmp_path / 'moved' / 'train.json')
    with pytest.raises(DataError, match=r'train\.json is a link to a file that is not there'):
        find(tmp_path)


def test_an_empty_file_is_said(coco, images, tmp_path):
    """The validation file alone would be divided, and trained on."""
    link_images(coco, images, tmp_path / 'images')
    (tmp_path / 'val.json').write_text(json.dumps(coco))
    (tmp_path / 'train.json').touch()
    with pytest.raises(DataError, match=r'train\.json is empty\. Copy it again'):
        find(tmp_path)
    find(tmp_path / 'val.json')


def test_ids_that_are_texts(coco, written):
    """VIA writes texts; Label Studio and others names."""
    expected = targets(coco, True)
    for image in coco['images']:
        image['id'] = f'photo {image["id"]}'
    for one in coco['annotations']:
        one.update(image_id=f'photo {one["image_id"]}', category_id=str(one['category_id']))
    for category in coco['categories']:
        category['id'] = str(category['id'])
    found = written(coco)
    assert targets(whole(found), True) == expected
    assert all(type(image['id']) is int for image in whole(found)['images'])
    assert all(type(c['id']) is int for c in whole(found)['categories'])


def test_images_listed_twice_are_one(coco, written):
    expected = targets(coco)
    coco['images'].append(dict(coco['images'][0]))
    found = written(coco)
    assert targets(whole(found)) == expected
    assert len(whole(found)['images']) == 4


def test_the_parent_category_of_roboflow_is_no_class(coco, written):
    expected = targets(coco)
    for category in coco['categories']:
        category['supercategory'] = 'shapes'
    coco['categories'].insert(0, {'id': 0, 'name': 'shapes', 'supercategory': 'none'})
    found = written(coco)
    assert found.classes == NAMES
    assert targets(whole(found)) == expected
    assert 'shapes names no class and has no objects' in found.notes[0]


def test_categories_of_one_name_are_one(coco, written):
    expected = targets(coco)
    coco['categories'].append({'id': 9, 'name': 'circle '})
    changed = [one for one in coco['annotations'] if one['category_id'] == 1][::2]
    for one in changed:
        one['category_id'] = 9
    found = written(coco)
    assert found.classes == NAMES
    assert targets(whole(found)) == expected


def test_parts_with_other_categories_get_the_same(coco, images, tmp_path):
    """mmdet numbers classes by the order in each file."""
    other = copy.deepcopy(coco)
    other['categories'] = [{'id': 5, 'name': 'triangle'}, {'id': 6, 'name': 'circle'}]
    new_id = {1: 6, 3: 5}
    other['annotations'] = [one for one in other['annotations'] if one['category_id'] in new_id]
    for one in other['annotations']:
        one['category_id'] = new_id[one['category_id']]
    expected = targets(other)
    for part, content in (('train', coco), ('val', other)):
        link_images(coco, images, tmp_path / part)
        (tmp_path / part / 'a.json').write_text(json.dumps(content))
    found = find(tmp_path)
    assert found.classes == NAMES
    categories = [part.coco['categories'] for part in found.parts.values()]
    assert categories[0] == categories[1]
    assert targets(found.parts['val'].coco) == expected
    assert targets(found.parts['train'].coco) == targets(coco)
    assert 'list different categories' in found.notes[0]


@pytest.mark.parametrize(
    'rewrite',
    [
        lambda name: f'images\\{name}',
        lambda name: f'C:\\data\\photos\\{name}',
        lambda name: f'/somewhere/else/{name}',
        lambda name: f'../../label-studio/data/media/upload/1/{name}',
        lambda name: f'/data/local-files/?d=photos/{name}',
        lambda name: name.replace('_', '%5F'),
    ],
)
def test_file_names_of_other_machines(coco, written, rewrite):
    expected = targets(coco)
    for image in coco['images']:
        image['file_name'] = rewrite(image['file_name'])
    found = written(coco)
    assert targets(whole(found)) == expected
    assert (found.parts['all'].root / whole(found)['images'][0]['file_name']).is_file()
    assert 'file names as they are in' in found.notes[0]


def test_absolute_names_and_names_above_the_file(coco, images, tmp_path):
    expected = targets(coco)
    for name in (str(images), os.path.relpath(images, tmp_path)):
        content = copy.deepcopy(coco)
        for image in content['images']:
            image['file_name'] = f'{name}/{image["file_name"]}'
        (tmp_path / 'a.json').write_text(json.dumps(content))
        part = find(tmp_path / 'a.json').parts['all']
        assert (part.root, targets(part.coco)) == (images, expected)


def test_missing_sizes_are_read_from_the_images(coco, written):
    expected = targets(coco)
    coco['images'][0].pop('width')
    coco['images'][1]['height'] = None
    found = written(coco)
    assert targets(whole(found)) == expected
    assert 'missing sizes read from the images (2)' in found.notes[0]


def test_run_lengths_are_kept(coco, written):
    crowd = next(one for one in coco['annotations'] if one['iscrowd'])
    found = written(coco)
    image = next(i for i in coco['images'] if i['id'] == crowd['image_id'])
    (kept,) = [one for one in whole(found)['annotations'] if one['id'] == crowd['id']]
    assert (pixels_of(kept, image) == pixels_of(crowd, image)).all()


@pytest.mark.slow
def test_a_file_of_the_size_of_coco_fits_into_memory(images, tmp_path):
    """118,000 images and 860,000 annotations with polygons of 25 points: less than 3 GB."""
    import subprocess
    import sys

    path, folder = tmp_path / 'train.json', tmp_path / 'images'
    folder.mkdir()
    rng = np.random.default_rng(0)
    polygons = [', '.join(f'{value:.2f}' for value in rng.uniform(0, 480, 50)) for _ in range(1000)]
    with open(path, 'w') as file:
        file.write('{"images": [')
        for i in range(1, 118_001):
            (folder / f'{i:012d}.jpg').touch()
            comma = ',' if i > 1 else ''
            file.write(
                f'{comma}{{"id": {i}, "file_name": "{i:012d}.jpg", "width": 640, "height": 480}}'
            )
        file.write('], "annotations": [')
        for i in range(1, 860_001):
            comma = ',' if i > 1 else ''
            file.write(
                f'{comma}{{"id": {i}, "image_id": {i % 118_000 + 1}, "category_id": {i % 80 + 1}, '
                f'"bbox": [1.5, 2.5, 30.25, {i % 90 + 1}.75], "area": {i}.5, "iscrowd": 0, '
                f'"segmentation": [[{polygons[i % 1000]}]]}}'
            )
        categories = ', '.join(f'{{"id": {i}, "name": "c{i}"}}' for i in range(1, 81))
        file.write(f'], "categories": [{categories}]}}')
    code = (
        'import resource, sys, time; from pathlib import Path\n'
        'from downstream.data.formats.find import find\n'
        'from downstream.data.formats.write import write_coco\n'
        'start = time.time(); found = find(Path(sys.argv[1]))\n'
        'read = time.time(); coco = found.parts["all"].coco\n'
        'write_coco(coco, Path(sys.argv[2])); done = time.time()\n'
        'peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20\n'
        'print(len(coco["annotations"]), peak, read - start, done - read)\n'
    )
    run = subprocess.run(
        [sys.executable, '-c', code, str(path), str(tmp_path / 'out.json')],
        capture_output=True,
        text=True,
        check=True,
    )
    count, peak, read, write = re.findall(r'[\d.]+', run.stdout.splitlines()[-1])
    print(f'\n{path.stat().st_size / 2**20:.0f} MiB: {peak} GiB, {read} s, written in {write} s')
    assert int(count) == 860_000
    assert float(peak) < 3
