_base_ = '../_base_/protocols/fcmae_1600e_in1k.py'

model = dict(backbone=dict(arch='atto'))
