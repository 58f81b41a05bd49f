"""The kernels and their threads belong to the whole process: what a module of tests leaves is taken back."""

from collections.abc import Iterator

import pytest
import torch

from support.native_layers import KERNELS, using


@pytest.fixture(scope="module", autouse=True)
def _kernels_from_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    if KERNELS:
        with using():
            yield
    else:
        yield
    torch.set_num_threads(threads)
