"""Rows that differ in what a test is about; their likes are slow tests."""

import pytest

from downstream.zoo import rows


def first_of_each(*attributes: str) -> list:
    """All rows as parameters of a test, slow where an earlier row has the same ``attributes``."""
    seen, parameters = set(), []
    for row in rows():
        kind = tuple(getattr(row, attribute) for attribute in attributes)
        marks = [pytest.mark.slow] if kind in seen else []
        seen.add(kind)
        parameters.append(pytest.param(row, marks=marks, id=row.name))
    return parameters
