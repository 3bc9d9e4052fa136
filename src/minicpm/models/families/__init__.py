"""One module per family: how its raw config becomes a ModelConfig."""
