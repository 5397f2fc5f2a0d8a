from pathlib import Path

from setuptools import find_packages, setup

TEST = [
    'pytest>=8',
    'pytest-timeout>=2.3',
    'pytest-xdist>=3.6',
    'setuptools>=77',  # builds the wheel that tests/test_install.py installs
    'transformers>=5',
]
DOCS = ['mkdocs>=1.6,<2', 'mkdocs-material>=9.7', 'mkdocstrings[python]>=1.0']
# The bands of TIFFs (--channels, --bands); imagecodecs has their compressions, LZW among them.
TIFF = ['tifffile>=2024.8.10', 'imagecodecs>=2024.6.1']
# --log-to: each is imported when a training begins. MLflow without a server writes to SQLite, for which
# mlflow-skinny brings no driver.
LOGGERS = {
    'tensorboard': ['tensorboard>=2.20'],
    'wandb': ['wandb>=0.31'],
    'mlflow': ['mlflow-skinny>=3.10', 'sqlalchemy>=2', 'alembic>=1.13'],
    'trackio': ['trackio>=0.43'],
}
# tools/export.py, and what runs its files.
EXPORT = ['onnx>=1.19', 'onnxscript>=0.7.2', 'onnxruntime>=1.22', 'openvino>=2025.4']
# What PAA and LAD of mmdet import in their losses; docs/methods.md.
METHODS = ['scikit-learn>=1.4']
LINT = ['mypy>=2', 'ruff>=0.12']
# Maintained forks of OpenMMLab's packages. They install the same import packages (mmengine, mmcv,
# mmdet, mmseg) as the originals and would overwrite them, so they are no dependency: docs/install.md.
OPENMMLAB = [
    'onedl-mmengine>=0.10.12,<0.11',
    'onedl-mmcv>=2.3.6,<2.4',
    'onedl-mmdetection>=3.5.1,<3.6',
    'onedl-mmsegmentation>=1.4.2,<1.5',
]

setup(
    name='convnext-dense',
    version='0.1.0',
    description='ConvNeXt and ConvNeXt V2 in Cascade Mask R-CNN and UperNet, without a compiler',
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10,<3.14',
    # A wheel has the recipes and the command lines too: downstream/configs, downstream/tools.
    packages=[
        *find_packages(include=['backbones*', 'downstream*', 'pretraining*']),
        'downstream.configs',
        'downstream.tools',
    ],
    package_dir={'downstream.configs': 'configs', 'downstream.tools': 'tools'},
    package_data={
        'backbones.kernels': ['**/*.c', '**/*.h'],
        'backbones.weights': ['*.json'],
        'downstream.configs': ['**/*.py'],
        'downstream.methods': ['*.json'],
        'downstream.reporting': ['*.css', '*.js'],
        'downstream.zoo': ['*.json'],
        'downstream.zoo.roadmap': ['*.json'],
    },
    # OpenCV comes with mmengine and mmcv.
    install_requires=[
        'torch>=2.6',
        'torchvision>=0.21',
        'timm>=1.0.31',
        'huggingface-hub>=0.25,<3',
        'safetensors',
        'numpy>=1.26',
        'pillow',
        'pycocotools>=2.0.8',
        'pyyaml',
        'scipy',
        'hotcoco>=1.3',
        'rich',
        'tqdm',
    ],
    extras_require={
        'openmmlab': OPENMMLAB,
        'test': TEST,
        'docs': DOCS,
        'bench': ['transformers', 'tqdm'],
        'tiff': TIFF,
        'export': EXPORT,
        'methods': METHODS,
        **LOGGERS,
        'loggers': [package for packages in LOGGERS.values() for package in packages],
        'dev': [
            *OPENMMLAB,
            *TEST,
            *DOCS,
            *LINT,
            *TIFF,
            *EXPORT,
            *METHODS,
            *LOGGERS['tensorboard'],
            *LOGGERS['mlflow'],
        ],
    },
)
