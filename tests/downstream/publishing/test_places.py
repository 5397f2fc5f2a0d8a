"""A config that everybody may read names no folder of the machine that trained."""

from mmengine.config import Config

from downstream.publishing.places import use_relative_places


def test_paths_of_this_machine_become_relative():
    cfg = Config(
        dict(
            data_root='/home/me/fruits/',
            train_dataloader=dict(
                dataset=dict(
                    type='RepeatDataset',
                    dataset=dict(
                        data_root='/home/me/fruits/',
                        ann_file='train.json',
                        data_prefix=dict(img='/home/me/fruits/images'),
                        scale=(3, 4),
                    ),
                )
            ),
            val_dataloader=dict(dataset=dict(data_root='/mnt/fruits')),
            test_dataloader=dict(dataset=dict(data_root='data/coco/')),
            val_evaluator=[
                dict(ann_file='/mnt/fruits/val.json'),
                dict(ann_file='/mnt/fruits2/a.json'),
            ],
            model=dict(backbone=dict(init_cfg=dict(checkpoint='/home/me/weights.pth'))),
            palette=[(1, 2, 3)],
        )
    )
    moved = use_relative_places(cfg)
    assert moved == {'/home/me/fruits/': 'data/fruits/', '/mnt/fruits': 'data/fruits-2/'}
    assert cfg.data_root == 'data/fruits/'
    train = cfg.train_dataloader.dataset.dataset
    assert train.data_root == 'data/fruits/'
    assert train.data_prefix.img == 'data/fruits/images'
    assert train.ann_file == 'train.json'
    assert train.scale == (3, 4)
    assert cfg.val_dataloader.dataset.data_root == 'data/fruits-2/'
    assert cfg.test_dataloader.dataset.data_root == 'data/coco/'
    assert [one.ann_file for one in cfg.val_evaluator] == ['data/fruits-2/val.json', 'a.json']
    assert cfg.model.backbone.init_cfg.checkpoint == 'weights.pth'
    assert cfg.palette == [(1, 2, 3)]
    assert '/home' not in cfg.pretty_text
    assert '/mnt' not in cfg.pretty_text


def test_a_config_of_relative_paths_stays():
    cfg = Config(dict(data_root='data/ade/', crop_size=(512, 512), classes=('a', 'b'), scale=None))
    before = cfg.pretty_text
    assert use_relative_places(cfg) == {}
    assert cfg.pretty_text == before
