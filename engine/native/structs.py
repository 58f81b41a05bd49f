"""The structs of cpp/matrix.h, field by field."""

import ctypes
from typing import ClassVar

_int = ctypes.c_int32
_pointer = ctypes.c_void_p


class Run(ctypes.Structure):
    """Consecutive groups of one width and length."""

    _fields_: ClassVar = [
        ("bits", _int),
        ("rows_per_group", _int),
        ("groups", _int),
        ("first_group", _int),
        ("first_unit", _int),
        ("first_word", _int),
    ]


class Matrix(ctypes.Structure):
    """A quantized matrix in its arena layout; the pointers are those of one moment."""

    _fields_: ClassVar = [
        ("codes", _pointer),
        ("scales", _pointer),
        ("tables", _pointer),
        ("perm", _pointer),
        ("bias", _pointer),
        ("runs", _pointer),
        ("residual", _pointer),
        ("n_runs", _int),
        ("in_features", _int),
        ("out_features", _int),
        ("blocks", _int),
        ("words", _int),
        ("groups", _int),
        ("units", _int),
        ("bits", _int),
    ]


class Segment(ctypes.Structure):
    """One sequence's new rows in a pass."""

    _fields_: ClassVar = [
        ("first_row", _int),
        ("rows", _int),
        ("start", _int),
        ("reserved", _int),
        ("pages", _pointer),
    ]


class Shape(ctypes.Structure):
    """Sizes of a decoder."""

    _fields_: ClassVar = [
        ("hidden", _int),
        ("intermediate", _int),
        ("heads", _int),
        ("kv_heads", _int),
        ("head_dim", _int),
        ("kv_is_half", _int),
        ("norm_eps", ctypes.c_float),
        ("rotary_dim", _int),
    ]


class Part(ctypes.Structure):
    """Columns of a linear layer that lie in one piece, and which rounded form of the inputs they take."""

    _fields_: ClassVar = [
        ("matrix", Matrix),
        ("first_block", _int),
        ("inputs", _int),
    ]


class Linear(ctypes.Structure):
    """A linear layer: parts side by side."""

    _fields_: ClassVar = [
        ("parts", _pointer),
        ("n_parts", _int),
        ("blocks", _int),
        ("out_features", _int),
        ("words", _int),
    ]


class Layer(ctypes.Structure):
    """One layer of a decoder."""

    _fields_: ClassVar = [
        ("q", Linear),
        ("k", Linear),
        ("v", Linear),
        ("o", Linear),
        ("gate", Linear),
        ("up", Linear),
        ("down", Linear),
        ("input_norm", _pointer),
        ("post_norm", _pointer),
        ("query_norm", _pointer),
        ("key_norm", _pointer),
        ("index", _int),
        ("reserved", _int),
    ]
