"""Exported files by their names, and the one opening of each."""

import pytest

from downstream.exporting.files import is_exported


@pytest.mark.parametrize(
    'name',
    [
        'a/model.onnx',
        'model.xml',
        'model.pt2',
        'https://host/model.onnx',
        'https://host/model.onnx?download=1',
        'http://host/a/model.pt2?name=a/b.pth#top',
        'hf:lab/pets/model.onnx',
        'hf:lab/pets/onnx/model.onnx@v1.0',
        'hf:lab/pets/model.xml@0123abc',
    ],
)
def test_names_of_exported_files(name):
    assert is_exported(name)


@pytest.mark.parametrize(
    'name',
    [
        'a/model.pth',
        'model.onnx.pth',
        'https://host/model.pth?from=model.onnx',
        'hf:lab/pets',
        'hf:lab/pets.onnx',  # a repository
        'hf:lab/pets@v1.onnx',
        'hf:lab/pets/model.safetensors@v1.onnx',
    ],
)
def test_names_of_checkpoints(name):
    assert not is_exported(name)
