"""Optional packages: imported when needed, and named with their extra when they are missing."""

from importlib import import_module
from types import ModuleType

from sga_kohya.errors import SgaError


def library(name: str, extra: str, purpose: str) -> ModuleType:
    """An optional package. Raises SgaError that names the extra which installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise SgaError(f'{purpose} needs {name} ({reason}): pip install "sga-kohya[{extra}]"') from None
