"""The one exception that a user's mistake may raise."""


class InputError(Exception):
    """A wrong file, parameter or message: one line that says what, where, expected and found.

    The `rdt` command prints it as that line and exits with code 2; nodes print it as their last line.
    """
