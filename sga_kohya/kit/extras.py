"""Optional packages: imported when needed, and named with their extra when they are missing."""

from importlib import import_module
from types import ModuleType

from sga_kohya.errors import SgaError


def library(name: str, extra: str, purpose: str, package: str = "") -> ModuleType:
    """An optional package. Raises SgaError that names the extra which installs it. package: alone enough, for pip."""
    try:
        return import_module(name)
    except ImportError as error:
        reason = " ".join(str(error).split())
        remedy = f'pip install "sga-kohya[{extra}]"' + (f" or pip install {package}" if package else "")
        raise SgaError(f"{purpose} needs {name} ({reason}): {remedy}") from None
