"""Threads of torch are taken away for small work only, and given back."""

import pytest
import torch

from flexquant.ensemble_builder.single_thread import WORTH_THREADS, single_thread, worthwhile_threads


def test_threads_come_back_also_after_an_error() -> None:
    before = torch.get_num_threads()
    threads = []

    def fail() -> None:
        with single_thread():
            threads.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert threads == [1]
    assert torch.get_num_threads() == before


def test_large_layers_keep_their_threads() -> None:
    before = torch.get_num_threads()
    with worthwhile_threads(WORTH_THREADS):
        assert torch.get_num_threads() == before
    with worthwhile_threads(WORTH_THREADS - 1):
        assert torch.get_num_threads() == 1
