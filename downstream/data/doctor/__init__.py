"""A whole data set examined: findings as lines, as a CSV file, as a page with pictures."""
