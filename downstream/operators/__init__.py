"""mmcv's operators without mmcv's compiler."""
