"""Files that grow: whole or not there."""

import csv
import json
import threading
import time

import pytest

from downstream.predicting.ahead import ahead
from downstream.predicting.files import coco_file, csv_file, json_lines


def test_a_coco_file_is_whole(tmp_path):
    path = tmp_path / 'new' / 'predictions.json'
    with coco_file(path, ('circle', 'Grün')) as file:
        for number in (1, 2, 3):
            annotations = [{'image_id': number, 'score': 0.5}] * (number - 1)
            file.add({'id': number, 'file_name': 'ü.jpg'}, annotations)
        assert not path.exists()
    content = json.loads(path.read_text(encoding='utf-8'))
    assert [image['id'] for image in content['images']] == [1, 2, 3]
    assert [entry['image_id'] for entry in content['annotations']] == [2, 3, 3]
    assert content['categories'] == [{'id': 1, 'name': 'circle'}, {'id': 2, 'name': 'Grün'}]
    assert [file.name for file in path.parent.iterdir()] == ['predictions.json']


def test_an_empty_coco_file_is_json(tmp_path):
    with coco_file(tmp_path / 'predictions.json', ('circle',)):
        pass
    assert json.loads((tmp_path / 'predictions.json').read_text())['images'] == []


@pytest.mark.parametrize(
    'make',
    [
        lambda path: coco_file(path, ('a',)),
        lambda path: csv_file(path, ('a', 'b')),
        lambda path: json_lines(path),
    ],
)
def test_an_error_leaves_the_former_file_and_nothing_else(tmp_path, make):
    path = tmp_path / 'file'
    path.write_text('former')
    with pytest.raises(KeyError), make(path):
        raise KeyError
    assert path.read_text() == 'former'
    assert list(tmp_path.iterdir()) == [path]


def test_tables_quote_what_needs_it(tmp_path):
    with csv_file(tmp_path / 't.csv', ('name', 'value')) as file:
        file([('a, "b"', 1), ('c', '')])
    with (tmp_path / 't.csv').open(newline='') as file:
        assert list(csv.reader(file)) == [['name', 'value'], ['a, "b"', '1'], ['c', '']]


def test_results_come_in_order_and_few_are_ahead():
    alive, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        time.sleep(0.002 * (number % 3))
        return number

    taken = []
    for number in ahead(work, range(60), 3, 4):
        taken.append(number)
        with lock:
            alive -= 1
    assert taken == list(range(60))
    assert 2 <= most <= 5


def test_an_error_in_a_thread_is_raised_in_its_turn():
    def work(number: int) -> float:
        return 1 / (number - 3)

    results = ahead(work, range(100), 2, 4)
    assert [next(results) for _ in range(3)] == [-1 / 3, -1 / 2, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_whoever_stops_early_starts_no_more():
    begun = []
    results = ahead(begun.append, range(1000), 1, 3)
    next(results)
    results.close()
    assert len(begun) <= 5
