"""The one exception that users are meant to read."""


class UserError(ValueError):
    """Something about the user's input.

    The message's first sentence says what is wrong with the input, the second what to do about it.
    """
