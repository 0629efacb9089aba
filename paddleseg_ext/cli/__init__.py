"""The command `paddleseg`: one file per verb that parses, calls one library function and returns an exit code."""
