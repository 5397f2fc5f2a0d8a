"""What can be wrong with the content of a data set: pure functions of annotations and pixel values."""
