"""Says, per family, how a raw config becomes a model, and holds the one decoder.

Import `minicpm.models.registry` for configs (no torch) and `minicpm.models.decoder` for the module.
"""
