"""Gives every test the signals of a program at a terminal, and none a cache of packed weights."""

import os
import signal

# A shell starts background jobs with Ctrl-C ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests of the cache of packed weights turn it on, with a place of their own.
os.environ["MINICPM_PACKED_CACHE"] = "0"
