"""What is learned from images: the network of the target D, its weights and its training (extra "torch")."""

__all__ = ["require_torch"]


def require_torch(wanted_for):
    """The module torch; ImportError that says how to install it, naming what needs it."""
    try:
        import safetensors  # noqa: F401
        import torch
    except ImportError as error:
        raise ImportError(f"{wanted_for} needs PyTorch and safetensors: pip install bioperf[torch]") from error
    return torch
