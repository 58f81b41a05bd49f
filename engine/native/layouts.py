"""How layers of either method lie in arenas of the native kernels."""

import ctypes

import flexquant.engine.any_precision.arena_layout as any_precision
import flexquant.engine.exl2.blocked_layout as exl2
from flexquant.engine.any_precision.arena_layout import PlanesLayout
from flexquant.engine.any_precision.spec import AnyPrecisionSpec
from flexquant.engine.exl2.blocked_layout import BlockedLayout, Fetch
from flexquant.engine.layer_spec import LayerSpec

ArenaLayout = BlockedLayout | PlanesLayout


def layout_of(spec: LayerSpec) -> ArenaLayout:
    """Sizes and offsets of a layer."""
    return PlanesLayout(spec) if isinstance(spec, AnyPrecisionSpec) else BlockedLayout(spec)


def repack(library: ctypes.CDLL, layout: ArenaLayout, fetch: Fetch, address: int, staging: int) -> None:
    """Write a layer to `address`, piece by piece; see `exl2.blocked_layout.repack`."""
    if isinstance(layout, PlanesLayout):
        any_precision.repack(library, layout, fetch, address, staging)
    else:
        exl2.repack(library, layout, fetch, address, staging)


def staging_bytes(spec: LayerSpec) -> int:
    """The least staging memory that a layer needs."""
    if isinstance(spec, AnyPrecisionSpec):
        return any_precision.staging_bytes(spec)
    return exl2.staging_bytes(spec)
