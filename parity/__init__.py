"""Our models beside the references', live: `make test-parity` runs it in an environment that has PyTorch.

Importing the package puts the stand-ins in place that let timm and mmsegmentation be imported.
"""
from parity import stand_ins

stand_ins.install()
