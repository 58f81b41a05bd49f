"""The only file that calls exllamav2 (0.3.2): its compiled kernels, without its model classes.

Its Python classes load checkpoints whole, and their attention without flash-attn leaves out the causal mask where
torch's scaled_dot_product_attention is there (`attn.py`, `_attn_torch`). So blocks are made and run by the functions of
the extension module that those classes use, and attention is torch's.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from flexquant.engine.errors import UsageError
from flexquant.engine.exllamav2.card import CardMemory, Span
from flexquant.engine.exllamav2.device import on_card
from flexquant.engine.exllamav2.form import Form
from flexquant.engine.exllamav2.version import VERSION
from flexquant.engine.model_config import FINAL_NORM, ModelConfig, input_norm, post_norm
from flexquant.engine.rope import RopeTable
from flexquant.engine.segment import Floats

_NEOX: Final = 2  # RopeStyle.NEOX of exllamav2: halves of the head dimension are turned against each other
_TYPES: Final = {"int32": torch.int32, "int16": torch.int16, "float16": torch.float16}


def load_extension() -> Any:
    """The extension module; compiled now, which takes minutes, where it was installed without.

    exllamav2 sets torch's thread count for the whole process when it is imported; that is taken back.

    Raises:
        UsageError: It is not installed, is of another version, or cannot be compiled or loaded here.
    """
    if not torch.cuda.is_available():
        raise UsageError("no CUDA device is there for torch to use", hint="Serve with --device cpu.")
    installed = _installed_version()
    if installed != VERSION:
        raise UsageError(
            f"exllamav2 {VERSION} is needed, and {installed or 'none'} is installed",
            hint='Install it with: pip install "flexquant[cuda]". Or serve with --device cpu.',
        )
    threads = torch.get_num_threads()
    try:
        return importlib.import_module("exllamav2.ext").ext_c
    except ModuleNotFoundError as error:
        raise UsageError(
            f"exllamav2 cannot be used: {error}",
            hint='Install what it needs with: pip install "flexquant[cuda]". Or serve with --device cpu.',
        ) from error
    except Exception as error:  # compilers, linkers and loaders fail in many ways
        raise UsageError(
            f"exllamav2's kernels cannot be compiled or loaded: {error}",
            hint="`flexquant doctor` says what is missing. Or serve with --device cpu.",
        ) from error
    finally:
        torch.set_num_threads(threads)


def _installed_version() -> str | None:
    try:
        return metadata.version("exllamav2")
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class _Pass:
    """Hidden states of a pass, and its sequences' keys and values, which are the same memory as the sequences'."""

    hidden: Tensor
    """f16 [rows, hidden], changed in place."""
    spans: Sequence[Span]
    fresh: Sequence[Sequence[Tensor]]
    """By span and layer, where new ones are written: f16 [2, rows, kv_heads, head_dim]."""
    seen: Sequence[Sequence[Tensor]]
    """By span and layer, all, new ones included: f16 [2, 1, kv_heads, tokens, head_dim]."""
    pasts: Tensor
    """int32 [spans]: tokens that each has; of a pass of several."""


class ExllamaKernels:
    """Implements `Kernels`.

    Args:
        extension: Of `load_extension`.
        device: The card.
        config: The model's shape.
        norms: Its norm weights, f32 [hidden] each.
        max_rows: Most rows of a pass.
        dequantize: Most weights of a layer that runs on more than 32 rows.
        graphs: Let exllamav2 capture CUDA graphs of blocks that were run often enough.
    """

    @torch.inference_mode()
    def __init__(
        self,
        extension: Any,
        device: torch.device,
        config: ModelConfig,
        norms: Mapping[str, Floats],
        *,
        max_rows: int,
        dequantize: int,
        graphs: bool = True,
    ) -> None:
        self._ext = extension
        self._device = device
        self._config = config
        self._max_rows = max_rows
        self._graphs = graphs
        # cuDNN's attention makes a new plan for every length of the context: 5 ms per layer and token on an H100.
        torch.backends.cuda.enable_cudnn_sdp(False)
        # A stream of its own: graphs cannot be captured on the default one.
        self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]  # as torch has it
        self._none = torch.empty((1, 1), device="meta")  # how the extension spells "nothing"
        self._enter_stream()
        self._norms = {name: torch.from_numpy(weights).to(device, torch.float16) for name, weights in norms.items()}
        widest = max(config.heads * config.head_dim, config.hidden_size)
        self._state = self._half(max_rows * widest)
        self._gate = self._half(max_rows * max(config.intermediate_size, config.hidden_size))
        self._up = torch.empty_like(self._gate)
        self._dequantized = self._half(dequantize)
        rotation = RopeTable(config.rope, config.head_dim).rotation(np.arange(config.context))
        self._cos = torch.from_numpy(rotation.cos[:, 0]).to(device, torch.float16)
        sin = rotation.signed_sin[:, 0, config.head_dim // 2 :]
        self._sin = torch.from_numpy(np.concatenate((sin, sin), axis=1)).to(device, torch.float16)
        self._forms: dict[int, Form] = {}

    # --- handles

    @torch.inference_mode()
    def make_matrix(self, form: Form, memory: CardMemory, offset: int) -> int:
        """See `Kernels`."""
        self._enter_stream()
        whole = on_card(memory, self._device)
        found: dict[str, Tensor] = {}
        for part in form.parts.values():
            start = offset + part.offset
            found[part.name] = whole[start : start + part.nbytes].view(_TYPES[part.dtype]).view(part.shape)
        inner = form.spec.key.startswith("model.layers.")
        matrix = int(
            self._ext.make_q_matrix(
                found["q_weight"],
                found["q_perm"],
                found["q_invperm"],
                found["q_scale"],
                found["q_scale_max"],
                found["q_groups"],
                found["q_group_map"],
                self._none,
                self._none,
                self._none,
                found.get("bias", self._none),
                self._dequantized,
                # 0 rows may be written out in half precision: the head always runs on its codes.
                -(-form.spec.in_features // 128) * 128 if inner else 0,
            )
        )
        self._forms[matrix] = form
        return matrix

    def free_matrix(self, matrix: int) -> None:
        """See `Kernels`."""
        del self._forms[matrix]
        self._ext.free_q_matrix(matrix)

    def make_attention(self, layer: int, q: int, k: int, v: int, o: int) -> int:
        """See `Kernels`."""
        config, none = self._config, self._none
        return int(
            self._ext.make_q_attn(
                self._norms[input_norm(layer)],
                none,  # norm bias
                True,  # RMS norm
                False,  # no norm per head
                config.norm_eps,
                q,
                k,
                v,
                o,
                self._state,
                self._dequantized,
                self._max_rows,
                config.hidden_size,
                config.heads,
                config.kv_heads,
                config.head_dim,
                config.context,
                True,  # add to the hidden states
                _NEOX,
                config.head_dim,
                none,  # q norm
                none,  # k norm
                none,  # norm behind the block
                none,  # its bias
                False,  # hidden states in half precision
                self._graphs,
            )
        )

    def free_attention(self, block: int) -> None:
        """See `Kernels`."""
        self._ext.free_q_attn(block)

    def make_mlp(self, layer: int, gate: int, up: int, down: int) -> int:
        """See `Kernels`."""
        none = self._none
        return int(
            self._ext.make_q_mlp(
                self._norms[post_norm(layer)],
                none,  # norm bias
                True,  # RMS norm
                self._config.norm_eps,
                gate,
                up,
                down,
                self._state,
                self._gate,
                self._up,
                self._dequantized,
                self._max_rows,
                False,  # SiLU
                True,  # add to the hidden states
                none,  # norm behind the block
                none,  # its bias
                False,  # hidden states in half precision
                self._graphs,
            )
        )

    def free_mlp(self, block: int) -> None:
        """See `Kernels`."""
        self._ext.free_q_mlp(block)

    def synchronize(self) -> None:
        """See `Kernels`."""
        torch.cuda.synchronize(self._device)

    # --- passes

    @torch.inference_mode()
    def enter(self, rows: Floats, spans: Sequence[Span]) -> _Pass:
        """See `Kernels`."""
        self._enter_stream()
        hidden = torch.from_numpy(rows.astype(np.float16)).to(self._device)
        pasts = self._none
        if len(spans) > 1:
            pasts = torch.tensor([span.past for span in spans], dtype=torch.int32).to(self._device)
        planes = [self._planes(span) for span in spans]
        ends = [span.past + span.rows for span in spans]
        fresh = [part[:, :, span.past : end].unbind() for part, span, end in zip(planes, spans, ends, strict=True)]
        seen = [part[:, :, :end].transpose(2, 3).unsqueeze(2).unbind() for part, end in zip(planes, ends, strict=True)]
        return _Pass(hidden, spans, fresh, seen, pasts)

    @torch.inference_mode()
    def attend(self, block: int, layer: int, passing: _Pass) -> None:
        """See `Kernels`."""
        attend = self._attend_one if len(passing.spans) == 1 else self._attend_many
        result = attend(block, layer, passing)
        batch, rows = len(passing.spans), passing.hidden.shape[0]
        self._ext.q_attn_forward_2(block, passing.hidden, result, batch, rows // batch, [], self._none)

    @torch.inference_mode()
    def mlp(self, block: int, passing: _Pass) -> None:
        """See `Kernels`."""
        self._ext.q_mlp_forward_(block, passing.hidden, [], self._none)

    @torch.inference_mode()
    def logits(self, head: int, passing: _Pass, rows: Sequence[int]) -> Floats:
        """See `Kernels`."""
        chosen = passing.hidden[list(rows)]
        normed = torch.empty_like(chosen)
        self._ext.rms_norm(chosen, self._norms[FINAL_NORM], normed, self._config.norm_eps)
        padded = self._forms[head].spec.padded_out
        result = torch.empty((len(chosen), padded), dtype=torch.float16, device=self._device)
        self._ext.gemm_half_q_half(normed, head, result, False)  # positional in the extension
        found: Floats = result.float().cpu().numpy()
        return found

    @torch.inference_mode()
    def reconstruct(self, matrix: int) -> npt.NDArray[np.float16]:
        """See `Kernels`."""
        spec = self._forms[matrix].spec
        weights = torch.empty((spec.in_features, spec.padded_out), dtype=torch.float16, device=self._device)
        self._enter_stream()
        self._ext.reconstruct(matrix, weights)
        found: npt.NDArray[np.float16] = weights.cpu().numpy()
        return found

    def close(self) -> None:
        """See `Kernels`."""
        self.synchronize()
        self._norms.clear()
        self._state = self._gate = self._up = self._dequantized = self._cos = self._sin = self._none
        torch.cuda.empty_cache()

    def _attend_one(self, block: int, layer: int, passing: _Pass) -> Tensor:
        """Rows of one sequence: keys and values are written where they stay."""
        (span,) = passing.spans
        new_keys, new_values = passing.fresh[0][layer].unbind()
        q = self._project(block, passing.hidden, 1, span.rows, span.past, self._none, new_keys, new_values)
        return self._attention(q, passing.seen[0][layer])

    def _attend_many(self, block: int, layer: int, passing: _Pass) -> Tensor:
        """One row of each of several sequences: they share the projections."""
        count, config = len(passing.spans), self._config
        new = torch.empty((2, count, config.kv_heads, config.head_dim), dtype=torch.float16, device=self._device)
        q = self._project(block, passing.hidden, count, 1, 0, passing.pasts, *new.unbind())
        torch._foreach_copy_([fresh[layer] for fresh in passing.fresh], list(new.chunk(count, dim=1)))
        results = [
            self._attention(query, seen[layer]) for query, seen in zip(q.chunk(count), passing.seen, strict=True)
        ]
        return torch.cat(results)

    def _project(
        self,
        block: int,
        hidden: Tensor,
        batch: int,
        rows: int,
        past: int,
        pasts: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """Norm, projections and rotation: fills keys and values, returns queries [rows, heads, head_dim]."""
        config = self._config
        q = torch.empty((hidden.shape[0], config.heads, config.head_dim), dtype=torch.float16, device=self._device)
        self._ext.q_attn_forward_1(
            block, hidden, batch, rows, past, pasts, q, keys, values, self._sin, self._cos, [], self._none
        )
        return q

    def _attention(self, q: Tensor, seen: Tensor) -> Tensor:
        """Queries [rows, heads, head_dim] of the last of all tokens -> [rows, heads * head_dim]."""
        rows, tokens = q.shape[0], seen.shape[3]
        queries = q.transpose(0, 1).unsqueeze(0)
        keys, values = seen.unbind()
        grouped = self._config.heads != self._config.kv_heads
        if rows == 1:
            found = F.scaled_dot_product_attention(queries, keys, values, enable_gqa=grouped)
        elif rows == tokens:
            found = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=grouped)
        else:
            mask: Any = causal_lower_right(rows, tokens)
            found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=grouped)
        return found[0].transpose(0, 1).reshape(rows, -1)

    def _planes(self, span: Span) -> Tensor:
        """A sequence's memory: f16 [layers, 2, capacity, kv_heads, head_dim]. Made per pass, never stored."""
        config = self._config
        whole = on_card(span.memory, self._device).view(torch.float16)
        return whole.view(config.layers, 2, span.capacity, config.kv_heads, config.head_dim)

    def _half(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.float16, device=self._device)

    def _enter_stream(self) -> None:
        torch.cuda.set_device(self._device)
        torch.cuda.set_stream(self._stream)
