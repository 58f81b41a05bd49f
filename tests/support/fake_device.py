"""A card that is none: tensors that lie in the host's memory, under the rules of those that do not.

What is computed is real, so figures can be compared. An operation that a card would refuse raises: tensors of both
kinds together, a table on the host looked up with indices on the card, and numpy's view of a card's memory. Copies
between the two, and tensors without dimensions on the host, are allowed, as they are with a card.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CARD = torch.device("cuda", 0)

_BETWEEN = ("copy_", "__setitem__")
"""Functions that copy from one memory to the other."""


class OnCard(Tensor):
    """A tensor on the card. Its own rules are those of `FakeCard`, without which none is made."""


class FakeCard(TorchFunctionMode):
    """While it is entered, "cuda" is a device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one function of torch."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        of_card = any(isinstance(tensor, OnCard) for tensor in _tensors([args, kwargs]))
        if _is_getter_of_device(func):
            return CARD if of_card else func(*args)
        if name in ("to", "cpu"):
            return _moved(func, name, args, kwargs)
        if of_card and name in ("numpy", "__array__"):
            raise TypeError("can't convert a tensor on the card to numpy")
        made_there = _is_card(kwargs.get("device"))
        if made_there:
            kwargs["device"] = torch.device("cpu")
        if of_card and name not in _BETWEEN:
            _refuse_mixed(name, args, kwargs)
        found = func(*args, **kwargs)
        if name in _BETWEEN:
            return args[0] if name == "copy_" else found
        return _on_card(found) if made_there or of_card else found


@contextmanager
def fake_card() -> Iterator[torch.device]:
    """Have a card for a while."""
    with FakeCard():
        yield CARD


def _moved(func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Run `Tensor.to` or `Tensor.cpu`."""
    source, *rest = args
    devices = [given for given in (*rest, kwargs.get("device")) if isinstance(given, torch.device | str)]
    target = "cpu" if name == "cpu" else str(devices[0]) if devices else None
    if target is None:
        found: Tensor = func(source, *rest, **kwargs)
        return _on_card(found) if isinstance(source, OnCard) else found
    copied: Tensor = source.as_subclass(Tensor).clone()
    return _on_card(copied) if _is_card(target) else copied


def _refuse_mixed(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if name == "__getitem__" and isinstance(args[0], OnCard):
        return  # indices may lie on the host
    if any(not isinstance(tensor, OnCard) and tensor.dim() for tensor in _tensors([args, kwargs])):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found cuda:0 and cpu")


def _tensors(found: Any) -> Iterable[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, dict):
        yield from _tensors(list(found.values()))
    elif isinstance(found, list | tuple):
        for part in found:
            yield from _tensors(part)


def _on_card(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.as_subclass(OnCard)
    if isinstance(found, tuple | list) and any(isinstance(part, Tensor) for part in found):
        return type(found)(_on_card(part) for part in found)
    return found


def _is_card(device: Any) -> bool:
    return device is not None and str(device).startswith("cuda")


def _is_getter_of_device(func: Callable[..., Any]) -> bool:
    return getattr(func, "__self__", None) is Tensor.__dict__.get("device", torch._C.TensorBase.__dict__["device"])
