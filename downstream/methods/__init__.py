"""The methods of mmdet and mmseg, each tried with other backbones."""
