_base_ = '../_base_/protocols/fcmae_800e_in1k.py'

model = dict(backbone=dict(arch='base'))
