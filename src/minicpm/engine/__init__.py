"""Serves requests on a decoder: schedules, runs, samples, reuses prefixes."""
