from pathlib import Path

from setuptools import find_packages, setup

TEST = ['pytest>=8', 'pytest-timeout>=2.3', 'pytest-xdist>=3.6', 'transformers>=5']

setup(
    name='convnext-dense',
    version='0.1.0',
    description='ConvNeXt and ConvNeXt V2 in Cascade Mask R-CNN and UperNet, without a compiler',
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10,<3.14',
    packages=find_packages(include=['backbones*', 'downstream*']),
    package_data={
        'backbones.kernels': ['*.c', '*.h'],
        'backbones.weights': ['weights.json'],
        'downstream.zoo': ['zoo.json'],
    },
    install_requires=[
        'torch>=2.6',
        'torchvision>=0.21',
        'onedl-mmengine>=0.10.12,<0.11',
        'onedl-mmcv>=2.3.6,<2.4',
        'onedl-mmdetection>=3.5.1,<3.6',
        'onedl-mmsegmentation>=1.4.2,<1.5',
        'pycocotools>=2.0.8',
        'faster-coco-eval>=1.8',
        'opencv-python',
        'numpy>=1.26',
        'pillow',
        'rich',
        'tqdm',
        'safetensors',
        'timm>=1.0.31',
    ],
    extras_require={'test': TEST, 'bench': ['transformers', 'tqdm'], 'dev': [*TEST, 'ruff>=0.12']},
)
