"""Images that are not 8-bit RGB: files as they come, chosen bands, mean and standard deviation."""
