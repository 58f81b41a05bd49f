import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, MistralConfig, Phi3Config, PreTrainedConfig, Qwen2Config, Qwen3Config

from flexquant.engine.errors import CheckpointError, UnsupportedModelError
from flexquant.engine.model_config import LinearShape, ModelConfig, read_model_config
from flexquant.engine.rope_settings import Rope
from support.checkpoints import SMALL_LLAMA, write_config
from support.family_configs import LLAMA3, LONGROPE, MISTRAL, PHI3, QWEN2, QWEN3, without

DOCS_LLAMA = Path(__file__).parents[1] / "assets" / "docs-llama"
FAMILIES: dict[str, type[PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "phi3": Phi3Config,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}


def test_a_trained_checkpoint() -> None:
    assert read_model_config(DOCS_LLAMA) == ModelConfig(
        architecture="llama",
        hidden_size=256,
        intermediate_size=640,
        layers=8,
        heads=8,
        kv_heads=4,
        head_dim=32,
        rotary_dim=32,
        vocab_size=4096,
        context=2048,
        context_limit=None,
        norm_eps=1e-5,
        rope=Rope(10000.0),
        head_norms=False,
        tied_head=True,
        attention_bias=False,
        output_bias=False,
        mlp_bias=False,
        bos_id=0,
        eos_ids=(1,),
    )


@pytest.mark.parametrize("fields", [SMALL_LLAMA, QWEN2, QWEN3, MISTRAL, PHI3])
def test_defaults_are_those_of_transformers(fields: dict[str, object], tmp_path: Path) -> None:
    # Shapes have no default with us; a config that is silent about KV heads means as many as heads.
    theirs: Any = FAMILIES[str(fields["model_type"])].from_dict({**fields, "num_key_value_heads": 4})
    ours = read_model_config(write_config(tmp_path, fields))
    assert ours.kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == getattr(theirs, "head_dim", 16)
    window = getattr(theirs, "sliding_window", None) or theirs.max_position_embeddings
    assert ours.context == min(theirs.max_position_embeddings, window)
    assert ours.norm_eps == theirs.rms_norm_eps
    assert theirs.rope_parameters.pop("partial_rotary_factor", 1.0) == 1.0
    assert theirs.rope_parameters == {"rope_theta": ours.rope.theta, "rope_type": ours.rope.kind}
    assert ours.tied_head == theirs.tie_word_embeddings
    assert ours.bos_id == theirs.bos_token_id
    assert ours.eos_ids == (() if theirs.eos_token_id is None else (theirs.eos_token_id,))


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 4.0}, LLAMA3])
@pytest.mark.parametrize("reference", [LlamaConfig, Qwen2Config, Qwen3Config, MistralConfig])
def test_what_transformers_saves_is_read(
    scaling: dict[str, object] | None, reference: type[PreTrainedConfig], tmp_path: Path
) -> None:
    rope: dict[str, object] = {"rope_theta": 500_000.0, "rope_type": "default"} | (scaling or {})
    chosen = {
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": rope,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 7,
        "eos_token_id": [8, 9],
        "head_dim": 16,
    }
    reference.from_dict({**without(SMALL_LLAMA, "model_type"), **chosen}).save_pretrained(tmp_path)
    ours = read_model_config(tmp_path)
    assert (ours.kv_heads, ours.head_dim, ours.context, ours.norm_eps) == (2, 16, 4096, 1e-5)
    assert (ours.tied_head, ours.bos_id, ours.eos_ids) == (True, 7, (8, 9))
    assert ours.rope.theta == 500_000.0
    assert ours.rope.kind == rope["rope_type"]
    assert ours.rope.factor == rope.get("factor", 1.0)


def test_linear_layers_in_the_order_of_the_forward_pass(tmp_path: Path) -> None:
    config = read_model_config(write_config(tmp_path, num_key_value_heads=2, head_dim=24, attention_bias=True))
    linears = config.linears()
    assert len(linears) == 2 * 7 + 1
    attention, mlp = "model.layers.1.self_attn", "model.layers.1.mlp"
    assert linears[7:] == [
        LinearShape(f"{attention}.q_proj", 64, 96, True, 1),
        LinearShape(f"{attention}.k_proj", 64, 48, True, 1),
        LinearShape(f"{attention}.v_proj", 64, 48, True, 1),
        LinearShape(f"{attention}.o_proj", 96, 64, True, 1),
        LinearShape(f"{mlp}.gate_proj", 64, 96, False, 1),
        LinearShape(f"{mlp}.up_proj", 64, 96, False, 1),
        LinearShape(f"{mlp}.down_proj", 96, 64, False, 1),
        LinearShape("lm_head", 64, 100, False, None),
    ]
    assert config.norms() == dict.fromkeys(
        [
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.post_attention_layernorm.weight",
            "model.layers.1.input_layernorm.weight",
            "model.layers.1.post_attention_layernorm.weight",
            "model.norm.weight",
        ],
        64,
    )


EOS: list[tuple[dict[str, object], dict[str, object] | None, tuple[int, ...]]] = [
    ({}, None, (2,)),
    ({"eos_token_id": 5}, None, (5,)),
    ({"eos_token_id": None}, None, ()),
    ({"eos_token_id": [5, 6]}, {"eos_token_id": [6, 7]}, (5, 6, 7)),
    ({"eos_token_id": 5}, {}, (5,)),
    ({}, {"eos_token_id": 7}, (7,)),
    ({"eos_token_id": -1}, {"eos_token_id": 7}, (7,)),
]


@pytest.mark.parametrize(("changes", "generation", "eos"), EOS)
def test_end_of_text_is_what_both_files_name(
    changes: dict[str, object], generation: dict[str, object] | None, eos: tuple[int, ...], tmp_path: Path
) -> None:
    write_config(tmp_path, **changes)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert read_model_config(tmp_path).eos_ids == eos


@pytest.mark.parametrize(("changes", "bos"), [({}, 1), ({"bos_token_id": 0}, 0), ({"bos_token_id": None}, None)])
def test_begin_of_text(changes: dict[str, object], bos: int | None, tmp_path: Path) -> None:
    assert read_model_config(write_config(tmp_path, **changes)).bos_id == bos


def test_exl2_stores_are_known(tmp_path: Path) -> None:
    quantization = {"quant_method": "exl2", "version": "0.3.2", "bits": 3.0, "head_bits": 6}
    assert read_model_config(write_config(tmp_path, quantization_config=quantization)).layers == 2


UNSUPPORTED: dict[str, tuple[dict[str, object], str]] = {
    "architecture": ({"model_type": "gemma9"}, "model_type is 'gemma9'"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "rope type": ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling.rope_type is 'yarn'"),
    "old rope type": ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_scaling.type is 'dynamic'"),
    "rope per layer": ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters.full_attention"),
    "partial rope": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    "new partial rope": ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_factor"),
    "partial rope of qwen3": ({**QWEN3, "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    "sliding layers": ({"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    "other layers": (
        {**QWEN3, "use_sliding_window": True, "layer_types": ["full_attention", "linear_attention"]},
        "layer_types",
    ),
    "quantization": ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config.quant_method is 'gptq'"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_would_be_computed_wrongly_is_refused(name: str, tmp_path: Path) -> None:
    changes, message = UNSUPPORTED[name]
    with pytest.raises(UnsupportedModelError) as raised:
        read_model_config(write_config(tmp_path, **changes))
    assert f"{tmp_path / 'config.json'}: {message}" in raised.value.message


def test_an_unknown_architecture_gets_a_list_of_the_known(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        read_model_config(write_config(tmp_path, model_type="gemma9"))
    assert raised.value.hint == "Supported: llama, mistral, phi3, qwen2, qwen3."


SIZES = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
]
INVALID: dict[tuple[str, ...], list[object]] = {
    tuple(SIZES): [0, -1, 1.5, "8", True, [8], 2**40],
    ("num_attention_heads",): [3, 5],
    ("hidden_size",): [66],
    ("head_dim",): [15],
    ("rms_norm_eps",): [0, -1e-5, "1e-5", True, float("nan"), float("inf"), 10**400],
    ("rope_theta",): [0, "10000", []],
    ("tie_word_embeddings", "attention_bias", "mlp_bias"): [1, "true", []],
    ("bos_token_id", "eos_token_id"): ["</s>", 1.0, True, [[1]], -2],
    ("model_type", "hidden_act"): [1, ["llama"]],
    ("rope_scaling", "rope_parameters", "quantization_config"): [1, "x", [1]],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for names, values in INVALID.items() for name in names for value in values]
)
def test_a_field_of_no_use_is_named(name: str, value: object, tmp_path: Path) -> None:
    fields: dict[str, object] = {**SMALL_LLAMA, "num_key_value_heads": 2, name: value}
    with pytest.raises(CheckpointError) as raised:
        read_model_config(write_config(tmp_path, fields))
    assert f"{tmp_path / 'config.json'}: " in raised.value.message
    assert name in raised.value.message


@pytest.mark.parametrize("name", ["model_type", *without(SMALL_LLAMA, "model_type")])
def test_a_missing_field_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        read_model_config(write_config(tmp_path, without(SMALL_LLAMA, name)))


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "not valid JSON"), (b"[]", "not a JSON object"), (b"\xff", "not")]
)
def test_files_that_are_no_config(file: str, content: bytes, message: str, tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_model_config(tmp_path)
    assert str(tmp_path / file) in raised.value.message


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read") as raised:
        read_model_config(tmp_path)
    assert raised.value.hint == "Is this a model folder?"


FIELDS = [
    *SIZES,
    *("model_type", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "eos_token_id"),
    *("sliding_window", "use_sliding_window", "partial_rotary_factor", "original_max_position_embeddings"),
]
TEXTS = st.sampled_from([*FAMILIES, "linear", "llama3", "longrope", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from([*LLAMA3, *LONGROPE, "type", "rope_theta", "partial_rotary_factor"]), inner, max_size=4
        ),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(changes=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3))
def test_any_config_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, object]) -> None:
    folder = write_config(tmp_path_factory.mktemp("any"), **changes)
    try:
        config = read_model_config(folder)
    except CheckpointError:
        return
    assert config.heads % config.kv_heads == 0
    assert config.norm_eps > 0
    assert config.context >= 1
    assert 2 <= config.rotary_dim <= config.head_dim
