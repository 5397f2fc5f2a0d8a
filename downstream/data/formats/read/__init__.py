"""A reader for each annotation format; ``recognise`` says whether a folder or file is of it."""
