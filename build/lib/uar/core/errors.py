"""The one exception that a user's mistake raises."""


class UserError(ValueError):
    """Bad input. The message names the file, the row, what was found and what to do."""
