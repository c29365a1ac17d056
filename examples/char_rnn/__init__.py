"""Text that writes itself: a character RNN; `__main__.py` is the command line."""
