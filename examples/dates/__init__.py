"""Dates in words -> ISO dates: an encoder-decoder, with attention and without."""
