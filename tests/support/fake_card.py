"""A card and exllamav2's kernels in numpy: slow, right, and strict where the real ones are silently wrong.

The rules it enforces: memory is not used after its release nor released under a matrix; a matrix is taken over once
and not freed under a block; nothing that a pass used goes before the card was waited for; shapes fit; permutations
are ones. Weights are read from the fake device's bytes by exllamav2's documented formula, not by the engine's code.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flexquant.engine.exllamav2.card import CardMemory, Rows, Span
from flexquant.engine.exllamav2.compute import CardCompute
from flexquant.engine.exllamav2.form import ALIGNMENT, Form
from flexquant.engine.model_config import FINAL_NORM, ModelConfig, input_norm, post_norm
from flexquant.engine.rope import RopeTable

Floats = npt.NDArray[np.float32]


class RuleBrokenError(AssertionError):
    """The engine did what would corrupt or crash a real card."""


class FakeMemory:
    """Implements `CardMemory`."""

    def __init__(self, card: "FakeCard", nbytes: int) -> None:
        self._card = card
        self._bytes: npt.NDArray[np.uint8] | None = np.full(nbytes, 0xA5, np.uint8)  # not zeros: nothing is cleared
        self.matrices = 0

    @property
    def nbytes(self) -> int:
        return 0 if self._bytes is None else len(self._bytes)

    @property
    def address(self) -> int:
        return self.bytes().ctypes.data

    def bytes(self) -> npt.NDArray[np.uint8]:
        if self._bytes is None:
            raise RuleBrokenError("device memory is used after its release")
        return self._bytes

    def release(self) -> None:
        if self._bytes is None:
            return
        if self.matrices:
            raise RuleBrokenError("device memory is released under a matrix")
        if id(self) in self._card.in_flight:
            raise RuleBrokenError("device memory is released while a pass that uses it may run")
        self._card.account(-len(self._bytes))
        self._bytes = None


def fake(memory: CardMemory) -> FakeMemory:
    """What the engine hands back of what it got here."""
    assert isinstance(memory, FakeMemory)
    return memory


@dataclass
class FakeCard:
    """Implements `Card`."""

    total: int = 1 << 30
    used: int = 0
    name: str = "fake"
    integrated: bool = False
    in_flight: set[int] = field(default_factory=set)
    """Memories that passes used since the card was waited for."""
    uploads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def available(self) -> tuple[int, int]:
        return self.total - self.used, self.total

    def taken(self) -> int:
        return self.used

    def allocate(self, nbytes: int) -> FakeMemory:
        self.account(nbytes)
        return FakeMemory(self, nbytes)

    def account(self, nbytes: int) -> None:
        with self.lock:
            if nbytes > 0 and self.used + nbytes > self.total:
                raise MemoryError(f"{nbytes} bytes")
            self.used += nbytes

    def staging(self, nbytes: int) -> memoryview:
        return memoryview(bytearray(nbytes))

    def upload(self, source: memoryview, target: CardMemory) -> None:
        self.uploads += 1
        fake(target).bytes()[: len(source)] = np.frombuffer(source, np.uint8)

    def copy(self, source: Rows, target: Rows, *, count: int, nbytes: int) -> None:
        origin, goal = fake(source.memory), fake(target.memory)
        for row in range(count):
            begin, end = source.start + row * source.pitch, target.start + row * target.pitch
            assert begin + nbytes <= origin.nbytes
            assert end + nbytes <= goal.nbytes
            goal.bytes()[end : end + nbytes] = origin.bytes()[begin : begin + nbytes]


@dataclass(eq=False)
class _Matrix:
    form: Form
    memory: FakeMemory
    offset: int
    weights: Floats
    """[inputs, outputs], in the order of the inputs."""
    bias: Floats | None
    blocks: int = 0


@dataclass(eq=False)
class _Block:
    kind: str
    layer: int
    matrices: list[_Matrix]


@dataclass
class _Pass:
    hidden: Floats
    spans: Sequence[Span]


class FakeKernels:
    """Implements `Kernels`."""

    def __init__(self, card: FakeCard, config: ModelConfig, norms: Mapping[str, Floats], *, max_rows: int) -> None:
        self._card = card
        self._config = config
        self._norms = norms
        self._max_rows = max_rows
        self._rope = RopeTable(config.rope, config.rotary_dim)
        self._handles: dict[int, _Matrix | _Block] = {}
        self._next = 1000
        self.made_blocks = 0
        self.fail_next_matrix = False
        self.closed = False

    # --- handles

    def make_matrix(self, form: Form, memory: CardMemory, offset: int) -> int:
        if self.fail_next_matrix:
            self.fail_next_matrix = False
            raise RuntimeError("CUDA out of memory")
        if offset % ALIGNMENT:
            raise RuleBrokenError("a layer is not aligned")
        place = fake(memory)
        whole = place.bytes()[offset : offset + form.size_bytes]
        matrix = _Matrix(form, place, offset, *_read(form, whole))
        part = form.parts["q_weight"]
        whole[part.offset : part.offset + part.nbytes] ^= 0x5A  # exllamav2 rewrites the codes in place
        place.matrices += 1
        return self._put(matrix)

    def free_matrix(self, matrix: int) -> None:
        found = self._matrix(matrix)
        if found.blocks:
            raise RuleBrokenError("a matrix is freed under a block")
        found.memory.matrices -= 1
        # What it was made from is no matrix any more, but its bytes are spoilt: they cannot be taken over again.
        del self._handles[matrix]

    def make_attention(self, layer: int, q: int, k: int, v: int, o: int) -> int:
        config = self._config
        query, key_value = config.heads * config.head_dim, config.kv_heads * config.head_dim
        shapes = [(config.hidden_size, query), *[(config.hidden_size, key_value)] * 2, (query, config.hidden_size)]
        return self._make_block("attention", layer, [q, k, v, o], shapes)

    def free_attention(self, block: int) -> None:
        self._free_block("attention", block)

    def make_mlp(self, layer: int, gate: int, up: int, down: int) -> int:
        config = self._config
        wide = (config.hidden_size, config.intermediate_size)
        return self._make_block("mlp", layer, [gate, up, down], [wide, wide, wide[::-1]])

    def free_mlp(self, block: int) -> None:
        self._free_block("mlp", block)

    def synchronize(self) -> None:
        self._card.in_flight.clear()

    # --- passes

    def enter(self, rows: Floats, spans: Sequence[Span]) -> _Pass:
        assert len(rows) == sum(span.rows for span in spans) <= self._max_rows
        if len(spans) > 1 and any(span.rows != 1 for span in spans):
            raise RuleBrokenError("several sequences of several rows in one pass")
        for span in spans:
            config = self._config
            nbytes = config.layers * 2 * span.capacity * config.kv_heads * config.head_dim * 2
            if nbytes > span.memory.nbytes or span.past + span.rows > span.capacity:
                raise RuleBrokenError("keys and values beyond their memory")
        return _Pass(rows.astype(np.float16).astype(np.float32), spans)

    def attend(self, block: int, layer: int, passing: _Pass) -> None:
        q, k, v, o = self._use("attention", layer, block)
        config = self._config
        x = _norm(passing.hidden, self._norms[input_norm(layer)], config.norm_eps)
        heads = (len(x), -1, config.head_dim)
        queries, keys, values = (_apply(matrix, x).reshape(heads) for matrix in (q, k, v))
        result = np.empty((len(x), config.heads * config.head_dim), np.float32)
        row = 0
        for span in passing.spans:
            rotation = self._rope.rotation(np.arange(span.past, span.past + span.rows))
            part = slice(row, row + span.rows)
            planes = fake(span.memory).bytes().view(np.float16)
            planes = planes.reshape(config.layers, 2, span.capacity, config.kv_heads, config.head_dim)
            new = slice(span.past, span.past + span.rows)
            planes[layer, 0, new] = _rotate(keys[part], rotation.cos, rotation.signed_sin)
            planes[layer, 1, new] = values[part]
            result[part] = _attention(
                _rotate(queries[part], rotation.cos, rotation.signed_sin), planes[layer, :, : new.stop], span.past
            )
            self._card.in_flight.add(id(span.memory))
            row += span.rows
        passing.hidden += _apply(o, result)

    def mlp(self, block: int, passing: _Pass) -> None:
        layer = self._block(block).layer
        gate, up, down = self._use("mlp", layer, block)
        x = _norm(passing.hidden, self._norms[post_norm(layer)], self._config.norm_eps)
        gated = _apply(gate, x)
        passing.hidden += _apply(down, gated / (1 + np.exp(-gated)) * _apply(up, x))

    def logits(self, head: int, passing: _Pass, rows: Sequence[int]) -> Floats:
        assert 0 < len(rows) <= 32
        matrix = self._matrix(head)
        matrix.memory.bytes()
        x = _norm(passing.hidden[list(rows)], self._norms[FINAL_NORM], self._config.norm_eps)
        self.synchronize()  # the logits are copied to the host
        return _apply(matrix, x)

    def reconstruct(self, matrix: int) -> npt.NDArray[np.float16]:
        return self._matrix(matrix).weights.astype(np.float16)

    def close(self) -> None:
        if self._handles:
            raise RuleBrokenError(f"{len(self._handles)} handles are left")
        self.closed = True

    # --- books

    def _put(self, handle: "_Matrix | _Block") -> int:
        self._next += 1
        self._handles[self._next] = handle
        return self._next

    def _matrix(self, handle: int) -> _Matrix:
        found = self._handles.get(handle)
        if not isinstance(found, _Matrix):
            raise RuleBrokenError("a matrix handle is used that is none, or was freed")
        return found

    def _block(self, handle: int) -> _Block:
        found = self._handles.get(handle)
        if not isinstance(found, _Block):
            raise RuleBrokenError("a block handle is used that is none, or was freed")
        return found

    def _make_block(self, kind: str, layer: int, handles: Sequence[int], shapes: Sequence[tuple[int, int]]) -> int:
        matrices = [self._matrix(handle) for handle in handles]
        for matrix, shape in zip(matrices, shapes, strict=True):
            if (matrix.form.spec.in_features, matrix.form.spec.out_features) != shape:
                raise RuleBrokenError(f"{matrix.form.spec.key} has another shape than the block needs")
            if f"layers.{layer}." not in matrix.form.spec.key:
                raise RuleBrokenError(f"{matrix.form.spec.key} in a block of layer {layer}")
            matrix.blocks += 1
        self.made_blocks += 1
        return self._put(_Block(kind, layer, matrices))

    def _free_block(self, kind: str, handle: int) -> None:
        found = self._block(handle)
        assert found.kind == kind
        for matrix in found.matrices:
            if id(matrix.memory) in self._card.in_flight:
                raise RuleBrokenError("a block is freed while a pass that uses it may run")
            matrix.blocks -= 1
        del self._handles[handle]

    def _use(self, kind: str, layer: int, handle: int) -> list[_Matrix]:
        found = self._block(handle)
        assert (found.kind, found.layer) == (kind, layer)
        for matrix in found.matrices:
            matrix.memory.bytes()
            self._card.in_flight.add(id(matrix.memory))
        return found.matrices


@dataclass
class FakeSetUp:
    """A `CardCompute` over a fake card, and the fakes behind it."""

    card: FakeCard = field(default_factory=FakeCard)
    keep_copies: bool = False
    kernels: list[FakeKernels] = field(default_factory=list)

    def compute(self) -> CardCompute:
        def open_kernels(
            config: ModelConfig, norms: Mapping[str, Floats], *, max_rows: int, dequantize: int
        ) -> FakeKernels:
            assert dequantize > 0
            self.kernels.append(FakeKernels(self.card, config, norms, max_rows=max_rows))
            return self.kernels[-1]

        return CardCompute(self.card, open_kernels, keep_copies=self.keep_copies)


def _read(form: Form, whole: npt.NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
    """Weights and bias from the bytes of a layer, by the formula of exllamav2's reconstruct kernel."""

    def tensor(name: str) -> npt.NDArray[np.generic]:
        part = form.parts[name]
        return whole[part.offset : part.offset + part.nbytes].view(part.dtype).reshape(part.shape)

    words = tensor("q_weight").view(np.uint32)
    table = tensor("q_groups").view(np.uint16).reshape(-1, 2).tolist()
    perm, inverse = tensor("q_perm").view(np.uint16), tensor("q_invperm").view(np.uint16)
    inputs, outputs = len(perm), words.shape[1]
    if not np.array_equal(perm[inverse], np.arange(inputs)):
        raise RuleBrokenError("q_perm is not the inverse of q_invperm")
    scales = tensor("q_scale").view(np.uint32)
    maxima = tensor("q_scale_max").view(np.float16)
    packed = np.empty((inputs, outputs), np.float32)
    expected_map = []
    row = 0
    for group, (bits, first) in enumerate(table):
        last = table[group + 1][1] if group + 1 < len(table) else len(words)
        rows = (last - first) * 32 // bits
        wide = np.concatenate([words[first:last], np.zeros((1, outputs), np.uint32)]).astype(np.uint64)
        at = np.arange(rows) * bits
        pair = wide[at // 32] | wide[at // 32 + 1] << np.uint64(32)
        codes = (pair >> (at % 32).astype(np.uint64)[:, None]) & np.uint64(2**bits - 1)
        columns = np.arange(outputs)
        index = (scales[group, columns // 8] >> (4 * (columns % 8)).astype(np.uint32)) & 15
        scale = (((index + 1) ** 2).astype(np.float16) * maxima[group]).astype(np.float16)
        packed[row : row + rows] = ((codes.astype(np.float32) - 2 ** (bits - 1)) * scale).astype(np.float16)
        expected_map += [value for left in range(rows, 0, -1) for value in (group, left)]
        row += rows
    if tensor("q_group_map").view(np.uint16).tolist() != expected_map:
        raise RuleBrokenError("q_group_map does not fit the groups")
    bias = tensor("bias").astype(np.float32) if "bias" in form.parts else None
    return packed[inverse], bias


def _apply(matrix: _Matrix, x: Floats) -> Floats:
    result: Floats = x @ matrix.weights
    if matrix.bias is not None:
        result += matrix.bias
    return result[:, : matrix.form.spec.out_features]


def _norm(x: Floats, weights: Floats, eps: float) -> Floats:
    scaled: Floats = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps) * weights
    return scaled


def _rotate(x: Floats, cos: Floats, signed_sin: Floats) -> Floats:
    turned: Floats = x * cos + np.roll(x, x.shape[-1] // 2, axis=-1) * signed_sin
    return turned


def _attention(queries: Floats, planes: npt.NDArray[np.float16], past: int) -> Floats:
    """Queries [rows, heads, head_dim], keys and values [2, tokens, kv_heads, head_dim] -> [rows, heads * head_dim]."""
    rows, heads, head_dim = queries.shape
    keys, values = planes.astype(np.float32).repeat(heads // planes.shape[2], axis=2)
    scores = np.einsum("rhd,thd->hrt", queries, keys) / np.sqrt(head_dim)
    scores[:, np.arange(keys.shape[0]) > past + np.arange(rows)[:, None]] = -np.inf
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    result: Floats = np.einsum("hrt,thd->rhd", shares, values).reshape(rows, -1)
    return result
