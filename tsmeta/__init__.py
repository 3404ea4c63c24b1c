"""Train one fastai model over ten thousand time-series datasets as if they were one array."""
__version__ = "0.1.0"
