"""Errors a user can fix: command lines show their message alone, without a traceback."""


class UserError(Exception):
    """Something in the user's files, config or command is wrong; the message says what, and the fix."""


class ConfigError(UserError, ValueError):
    """A value of a config or an argument is not possible."""


class WeightsError(UserError, RuntimeError):
    """A checkpoint cannot be found, read, or does not fit the model."""


class DataError(UserError, RuntimeError):
    """A data set is incomplete, unreadable, or contradicts the config."""
