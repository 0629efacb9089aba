"""The one error class for what a user did."""


class UserError(ValueError):
    """A mistake in what the user gave: a flag, a file, a key of the YAML.

    The text names the value, the rule it breaks and the remedy. The command prints it without a traceback and ends
    with exit code 1; programs that use the library catch it as the ValueError it is.
    """
