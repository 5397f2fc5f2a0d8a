# ConvNeXt V2, section 3.1 and table 9: 60 % of the cells of 32 x 32 pixels are hidden, the decoder is one
# block of 512 channels, patches are predicted normalised. No drop path. A leaf names the size.
_base_ = []  # so that mmengine does not take the import below for one of its lazy imports
from downstream.data.pipelines import imagenet_normalization

model = dict(
    type='FCMAE',
    backbone=dict(type='ConvNeXtV2', arch='tiny', drop_path_rate=0.0),
    mask_ratio=0.6,
    cell=32,
    decoder_dim=512,
    decoder_depth=1,
    norm_pix=True,
    data_preprocessor=dict(
        type='AsyncImgDataPreprocessor', bgr_to_rgb=True, **imagenet_normalization()
    ),
)
