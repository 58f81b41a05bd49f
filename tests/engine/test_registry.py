"""The books of the memory registry."""

from flexquant.engine.memory.registry import MemoryRegistry, ModuleBytes


def registry() -> MemoryRegistry:
    return MemoryRegistry(fixed=10, embedding=1000, scratch={"spare": 4096, "dequantize": 100})


def test_totals_are_sums_of_the_parts() -> None:
    books = registry()
    books.publish({"a": ModuleBytes(100, 128), "b": ModuleBytes(50, 64)})
    books.add_loading(8192)
    books.set_kv(300)
    found = books.snapshot()
    assert (found.payload, found.mapped) == (150, 192)
    assert found.total == 192 + 8192 + 300 + 4196 + 10
    assert (found.fixed, found.embedding, found.loading, found.kv) == (10, 1000, 8192, 300)


def test_publishing_replaces_only_the_named_modules() -> None:
    books = registry()
    books.publish({"a": ModuleBytes(100, 128), "b": ModuleBytes(50, 64)})
    books.publish({"a": ModuleBytes(40, 64)})
    assert books.snapshot().modules == {"a": ModuleBytes(40, 64), "b": ModuleBytes(50, 64)}


def test_what_was_loaded_is_not_counted_twice() -> None:
    books = registry()
    books.publish({"a": ModuleBytes(40, 64)})
    books.add_loading(128)
    assert books.snapshot().total == 64 + 128 + 4196 + 10
    books.publish({"a": ModuleBytes(100, 128)}, loaded=128)
    assert books.snapshot().total == 128 + 4196 + 10


def test_a_snapshot_does_not_change_afterwards() -> None:
    books = registry()
    before = books.snapshot()
    books.publish({"a": ModuleBytes(1, 64)})
    books.add_loading(4096)
    assert before.modules == {}
    assert before.loading == 0
    assert before.scratch == {"spare": 4096, "dequantize": 100}
