"""Which exllamav2 this package works with: its extension module's functions are no public interface."""

from typing import Final

VERSION: Final = "0.3.2"
