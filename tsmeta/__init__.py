"""Train one fastai model over ten thousand time-series datasets as if they were one array."""
__version__ = "0.2.0"

import sys

from .moved import OldModules

if OldModules not in sys.meta_path: sys.meta_path.append(OldModules)
