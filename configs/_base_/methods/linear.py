# A linear classifier of pixels on the last feature map: dropout and a 1x1 convolution. On a frozen
# backbone it shows how good the features are, as in DINOv3's model cards.
_base_ = 'upernet.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
)
