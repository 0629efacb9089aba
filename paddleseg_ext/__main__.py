"""`python -m paddleseg_ext` is the command `paddleseg`."""
import sys

from paddleseg_ext.cli.main import main

sys.exit(main())
