"""Builds the native kernels as a part of the package; everything else about the package is in pyproject.toml.

The library has a plain C ABI and is loaded with ctypes: it depends on neither torch nor the version of Python, so its
name carries no ABI tag and the wheel fits every Python 3 of its platform. It is `libflexquant.so` on macOS as well:
one name is looked for beside `engine/native/library.py`, and dlopen does not care about the suffix.

Without a working compiler the package is built all the same, with a warning, and the engine runs on torch alone.
"""

import sys
import warnings
from pathlib import Path
from typing import Final

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a build front end does not put the project's folder there

import native_build  # noqa: E402

LIBRARY: Final = "flexquant.engine.native.libflexquant"
LEFT_OUT: Final = "the native kernels are left out, and the engine will run on torch alone, slower ({})"


class BuildNative(build_ext):
    """Compiles with command lines of our own: how the interpreter was built is no business of the kernels."""

    def run(self) -> None:
        """Build the library afresh: into the build folder or, for an editable install, into the source folder."""
        library = Path(self.get_ext_fullpath(LIBRARY))
        try:
            native_build.build_library(library, Path(self.build_temp))
        except native_build.NativeBuildError as error:
            library.unlink(missing_ok=True)  # what an earlier build left must not pass for this one's
            # A Python warning and not a line of the log: pip (from 26) shows it without --verbose.
            warnings.warn(LEFT_OUT.format(error), stacklevel=1)

    def get_ext_filename(self, fullname: str) -> str:
        """The library's path in a wheel."""
        return str(Path(*fullname.split("."))) + ".so"

    def get_outputs(self) -> list[str]:
        """The library's path below the build folder, if there is a library: a missing one is no error."""
        built = Path(self.build_lib, self.get_ext_filename(LIBRARY))
        return [str(built)] if Path(self.get_ext_fullpath(LIBRARY)).exists() else []

    def get_output_mapping(self) -> dict[str, str]:
        """For an editable install: the path below the build folder, and the file that stands for it."""
        return {output: self.get_ext_fullpath(LIBRARY) for output in self.get_outputs()} if self.inplace else {}


class PlatformWheel(bdist_wheel):
    """The wheel's tag names the platform, but neither a version of Python nor an ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform, as in the wheel's file name."""
        return "py3", "none", super().get_tag()[2]


if __name__ == "__main__":
    # The sdist carries what `depends` names: every source, also those that this machine does not compile.
    depends = [str(path.relative_to(ROOT)) for path in native_build.inputs()]
    setup(
        ext_modules=[Extension(LIBRARY, sources=[], depends=depends, optional=True)],
        cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
    )
