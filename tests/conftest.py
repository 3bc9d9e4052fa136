"""Gives every test the signals of a program at a terminal, also when the tests run in the background."""

import signal

# A shell starts background jobs with Ctrl-C ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
