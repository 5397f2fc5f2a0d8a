"""The steps from ResNet to ConvNeXt: a table like that of the rows, and its page."""
