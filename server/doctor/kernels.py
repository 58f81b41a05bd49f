"""How the daemon would compute."""

from flexquant.engine.compute import TORCH, usable_cores
from flexquant.engine.native.library import NativeUnavailableError, kernel_names
from flexquant.server.doctor.section import Section


def kernels() -> Section:
    """Native kernels, the fastest first, or plain torch and why."""
    cores = usable_cores()
    try:
        names = kernel_names()
    except NativeUnavailableError as error:
        found = (("kernels", f"{TORCH}, many times slower: {error.message}"), ("cores", str(cores)))
        return Section("compute", found, {"kernels": TORCH, "native": [], "why": error.message, "cores": cores})
    others = f" (also {', '.join(names[1:])})" if names[1:] else ""
    found = (("kernels", f"native, {names[0]}{others}"), ("cores", str(cores)))
    return Section("compute", found, {"kernels": names[0], "native": names, "why": None, "cores": cores})
