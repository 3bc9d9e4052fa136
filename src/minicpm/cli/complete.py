"""What a shell may complete a model's name to."""


def model_names(incomplete: str) -> list[str]:
    """Names of models that are here or that can be pulled."""
    from minicpm.checkpoint import list_models
    from minicpm.errors import MiniCPMError
    from minicpm.models.published import published

    try:
        here = [model.name for model in list_models()]
    except (MiniCPMError, OSError):
        here = []
    names = ["nano", *here, *(repository for model in published() for repository in model.repositories)]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
