"""Opening ensembles: what is accepted, and the error that each kind of damage gets."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import EnsembleError, InputError, UnsupportedModelError
from flexquant.engine.manifest import assignment, modules_by_level
from support.ensembles import Shape, file_records, random_ensemble

Q_PROJ = "model.layers.0.self_attn.q_proj"
STORE = "levels/3.0/quantized.safetensors"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_ensemble(tmp_path_factory.mktemp("pristine") / "tiny", Shape(layers=1))


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "tiny"))


def edit_manifest(folder: Path, change: Callable[[Any], None]) -> None:
    path = folder / "ensemble.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def record_files(folder: Path) -> None:
    """Make the manifest agree with the files as they are now, so that later checks are reached."""
    records = {name: record.model_dump() for name, record in file_records(folder).items()}
    edit_manifest(folder, lambda manifest: manifest.update(files=records))


def edit_config(folder: Path, level: str, **fields: object) -> None:
    path = folder / "levels" / level / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    record_files(folder)


def edit_header(folder: Path, file: str, change: Callable[[Any], None]) -> None:
    """Change the header of a safetensors file; the tensors' bytes stay."""
    path = folder / file
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    record_files(folder)


def test_a_sound_ensemble_opens(pristine: Path) -> None:
    ensemble = Ensemble.open(pristine, verify=True)
    assert ensemble.config.layers == 1
    assert set(ensemble.specs) == {module.name for module in ensemble.manifest.modules}
    for module in ensemble.manifest.modules:
        assert [spec.payload for spec in ensemble.specs[module.name]] == [variant.bytes for variant in module.variants]
        files = [str(spec.entries["q_weight"].file) for spec in ensemble.specs[module.name]]
        assert ["8.0" in files[0], "3.0" in files[1]] == [True, True]
    assert (ensemble.tokenizer_folder / "tokenizer.json").is_file()
    assert ensemble.sequence() is ensemble.manifest.sequences["default"]


def test_unknown_sequences_are_named(pristine: Path) -> None:
    with pytest.raises(EnsembleError, match=r"sequences: there is no 'fast', only default"):
        Ensemble.open(pristine).sequence("fast")


def test_no_ensemble_there(tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match=r"ensemble.json: cannot be read"):
        Ensemble.open(tmp_path)


@pytest.mark.parametrize("name", [STORE, "levels/3.0/tokenizer.json", "levels/8.0/config.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(EnsembleError, match=rf"{name}: cannot be read: No such file .* names it in files"):
        Ensemble.open(folder)


def test_a_truncated_store_is_named(folder: Path) -> None:
    size = (folder / STORE).stat().st_size
    os.truncate(folder / STORE, size - 1)
    with pytest.raises(EnsembleError, match=rf"{STORE}: has {size - 1} bytes, .* files.{STORE}.bytes = {size}"):
        Ensemble.open(folder)


def test_a_truncated_store_that_the_manifest_knows_as_such_is_named_too(folder: Path) -> None:
    os.truncate(folder / STORE, (folder / STORE).stat().st_size - 1)
    record_files(folder)
    with pytest.raises(EnsembleError, match=rf"{STORE}: .* truncated"):
        Ensemble.open(folder)


def test_a_wrong_hash_is_found_on_request(folder: Path) -> None:
    data = bytearray((folder / STORE).read_bytes())
    data[8 + int.from_bytes(data[:8], "little")] ^= 1  # the first weight
    (folder / STORE).write_bytes(data)
    Ensemble.open(folder)
    with pytest.raises(EnsembleError, match=rf"{STORE}: its content differs from files.{STORE}.sha256"):
        Ensemble.open(folder, verify=True)


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    (folder / "levels/3.0/tokenizer.json").unlink()
    record_files(folder)
    with pytest.raises(EnsembleError, match=r"levels/3.0/tokenizer.json: the tokenizer is missing"):
        Ensemble.open(folder)


@pytest.mark.parametrize(
    ("file", "tensor", "field", "value", "match"),
    [
        (STORE, f"{Q_PROJ}.q_weight", "shape", [12, 32], r"q_proj.q_weight: shape is \[12, 32\], expected \[12, 64\]"),
        (STORE, f"{Q_PROJ}.q_scale_max", "dtype", "BF16", r"q_proj.q_scale_max: dtype is BF16, EXL2 has F16"),
        (STORE, f"{Q_PROJ}.q_weight", "dtype", "F4", r"q_weight'?: dtype 'F4' is not supported"),
        ("levels/8.0/common.safetensors", "model.norm.weight", "shape", [8, 8], r"model.norm.weight: is F16 \[8, 8\]"),
        ("levels/8.0/common.safetensors", "model.norm.weight", "dtype", "I16", r"model.norm.weight: is I16 \[64\]"),
        (
            "levels/8.0/common.safetensors",
            "model.embed_tokens.weight",
            "shape",
            [64, 288],
            r"embed_tokens.weight: is F16 \[64, 288\], expected \[288, 64\]",
        ),
    ],
)
def test_wrong_shapes_and_types_are_named(
    folder: Path, file: str, tensor: str, field: str, value: object, match: str
) -> None:
    edit_header(folder, file, lambda header: header[tensor].update({field: value}))
    with pytest.raises(EnsembleError, match=match) as raised:
        Ensemble.open(folder)
    assert file in str(raised.value)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    edit_header(folder, STORE, lambda header: header.pop(f"{Q_PROJ}.q_scale"))
    with pytest.raises(EnsembleError, match=r"levels/3.0: tensor .*q_proj.q_scale'? is missing"):
        Ensemble.open(folder)


def test_levels_of_models_with_other_settings(folder: Path) -> None:
    edit_config(folder, "3.0", rope_theta=500000.0)
    with pytest.raises(EnsembleError, match=r"levels of different models: .*3.0/config.json contradicts .*8.0/config"):
        Ensemble.open(folder)


def test_levels_of_models_with_other_tokenizers(folder: Path) -> None:
    path = folder / "levels/3.0/tokenizer.json"
    path.write_text(path.read_text() + " ")
    record_files(folder)
    with pytest.raises(EnsembleError, match=r"levels of different models: .*3.0/tokenizer.json differs"):
        Ensemble.open(folder)


def test_levels_of_models_with_the_same_settings_but_other_weights(folder: Path, tmp_path: Path) -> None:
    other = random_ensemble(tmp_path / "other", Shape(layers=1), seed=1)
    for name in ("quantized.safetensors", "common.safetensors"):
        shutil.copy(other / "levels/3.0" / name, folder / "levels/3.0" / name)
    record_files(folder)
    with pytest.raises(EnsembleError, match=r"levels of different models: .*layernorm.weight in .*3.0 differs"):
        Ensemble.open(folder)


def test_unknown_architectures_keep_their_own_error(folder: Path) -> None:
    for level in ("8.0", "3.0"):
        edit_config(folder, level, model_type="mamba")
    with pytest.raises(UnsupportedModelError, match="mamba"):
        Ensemble.open(folder)


def test_a_store_file_that_the_manifest_does_not_list(folder: Path) -> None:
    data = np.zeros(4, np.float16).tobytes()
    header = json.dumps({"extra": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (folder / "levels/8.0/extra.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    with pytest.raises(EnsembleError, match=r"ensemble.json: files: .*extra.safetensors is not listed"):
        Ensemble.open(folder)


def _set(*path: str | int, value: object) -> Callable[[Any], None]:
    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_set("architecture", value="qwen2"), r"architecture is 'qwen2', .*config.json has 'llama'"),
        (_set("embedding_bytes", value=1), r"embedding_bytes is 1, .* has 36864"),
        (_set("levels", 0, "store", value="../8.0"), r"levels.8.0.store: '../8.0' is no path inside"),
        (_set("levels", 0, "store", value="/etc"), r"levels.8.0.store: '/etc' is no path inside"),
        (_set("levels", 0, "store", value="levels/9"), r"levels/9: no \*.safetensors file there"),
        (
            _set("modules", 3, "linear", value=Q_PROJ),
            r"o_proj.linear: '.*q_proj' is no linear layer .*, or is named twice",
        ),
        (_set("modules", 0, "linear", value="model.q"), r"linear: 'model.q' is no linear layer of the model"),
        (_set("modules", 0, "in_features", value=32), r"in_features, out_features are 32, 64; config.json .* 64, 64"),
        (_set("modules", 0, "columns", value=[0, 32]), r"in_features, out_features are 64, 64; config.json .* 64, 32"),
        (_set("modules", 0, "variants", 1, "tensors", value=["x"]), r"variants.1.tensors: differ .*q_proj.q_groups"),
        (_set("modules", 0, "variants", 1, "level", value="8.0"), r"variants.1.bytes is 1868, the store has 4428"),
        (_set("default_sequence", value="other"), r"default_sequence 'other' is not among sequences"),
        (_set("files", f"{STORE}\0", value={"bytes": 1, "sha256": "0" * 64}), r"is no path inside"),
    ],
)
def test_manifests_that_contradict_their_stores(folder: Path, change: Callable[[Any], None], match: str) -> None:
    edit_manifest(folder, change)
    with pytest.raises(EnsembleError, match=match) as raised:
        Ensemble.open(folder)
    assert str(folder) in str(raised.value)


Q_SLICE, HEAD_SLICE, LAST_HEAD_SLICE = 1, -2, -1


@pytest.fixture
def cut_folder(tmp_path: Path) -> Path:
    """Its first layer is cut at column 32, its last at 64 and 160."""
    return random_ensemble(tmp_path / "cut", cuts={Q_PROJ: [32], "lm_head": [64, 160]})


def test_slices_are_layers_of_their_own(cut_folder: Path) -> None:
    ensemble = Ensemble.open(cut_folder)
    names = [module.name for module in ensemble.manifest.modules if module.columns]
    assert names == [f"{Q_PROJ}[0:32]", f"{Q_PROJ}[32:64]", "lm_head[0:64]", "lm_head[64:160]", "lm_head[160:288]"]
    for module in ensemble.manifest.modules:
        specs = ensemble.specs[module.name]
        assert [spec.payload for spec in specs] == [variant.bytes for variant in module.variants]
        assert all(spec.out_features == module.out_features for spec in specs)
        assert all(spec.whole == (module.columns is None) for spec in specs)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_set("modules", Q_SLICE, "columns", value=[48, 64]), r"proj\[32:64\].columns: \[48, 64\] .* multiples of 32"),
        (_set("modules", Q_SLICE, "columns", value=[32, 96]), r"columns: \[32, 96\] is no range of the layer's 64"),
        (_set("modules", Q_SLICE, "columns", value=[32, 32]), r"columns: \[32, 32\] is no range"),
        (_set("modules", Q_SLICE, "columns", value=[32]), r"modules.1.columns"),
        (_set("modules", Q_SLICE, "columns", value=[0, 64]), r"columns: begin at 0, the modules of .* end at 32"),
        (
            _set("modules", Q_SLICE, "columns", value=None),
            r"linear: '.*q_proj' is no linear layer .*, or is named twice",
        ),
        (_set("modules", Q_SLICE, "out_features", value=64), r"out_features are 64, 64; config.json .* 64, 32"),
        (_set("modules", HEAD_SLICE, "columns", value=[96, 160]), r"begin at 96, the modules of lm_head .* end at 64"),
        (
            _set("modules", LAST_HEAD_SLICE, "linear", value=Q_PROJ),
            r"columns: \[160, 288\] is no range of the layer's 64",
        ),
        (_set("modules", Q_SLICE, "variants", 0, "bytes", value=1), r"footprint_bytes\[0\]"),
        (
            _set("modules", Q_SLICE, "variants", 1, "level", value="8.0"),
            r"variants.1.bytes is 1068, the store has 2348",
        ),
        (_set("modules", Q_SLICE, "variants", 0, "tensors", value=["x"]), r"variants.0.tensors: differ"),
    ],
)
def test_cuts_that_are_none(cut_folder: Path, change: Callable[[Any], None], match: str) -> None:
    edit_manifest(cut_folder, change)
    with pytest.raises(EnsembleError, match=match) as raised:
        Ensemble.open(cut_folder)
    assert str(cut_folder) in str(raised.value)


def test_slices_that_end_too_early_are_named(cut_folder: Path) -> None:
    def shorten(manifest: Any) -> None:
        gone = manifest["modules"].pop()
        for sequence in manifest["sequences"].values():
            sequence["transitions"].pop()
            sequence["footprint_bytes"].pop()
            sequence["quality"].pop()
            sequence["footprint_bytes"] = [size - gone["variants"][0]["bytes"] for size in sequence["footprint_bytes"]]

    edit_manifest(cut_folder, shorten)
    with pytest.raises(EnsembleError, match=r"modules: the slices of lm_head end at column 160 of 288"):
        Ensemble.open(cut_folder)


def test_a_layer_without_module_is_named(folder: Path) -> None:
    def drop(manifest: Any) -> None:
        gone = manifest["modules"].pop()
        for sequence in manifest["sequences"].values():
            sequence["transitions"].pop()
            sequence["footprint_bytes"].pop()
            sequence["quality"].pop()
            sequence["footprint_bytes"] = [size - gone["variants"][0]["bytes"] for size in sequence["footprint_bytes"]]

    edit_manifest(folder, drop)
    with pytest.raises(EnsembleError, match=r"modules: there is none for lm_head"):
        Ensemble.open(folder)


json_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just([[]])
)


def _paths(value: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Of every value inside a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, child in items for path in [(*prefix, key), *_paths(child, (*prefix, key))]]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_the_manifest_is_an_input_error_or_harmless(pristine: Path, data: st.DataObject) -> None:
    path = pristine / "ensemble.json"
    text = path.read_text()
    manifest = json.loads(text)
    _set(*data.draw(st.sampled_from(_paths(manifest))), value=data.draw(json_values))(manifest)
    try:
        path.write_text(json.dumps(manifest))
        Ensemble.open(pristine)
    except InputError as error:
        assert str(pristine) in error.message  # noqa: PT017 - harmless damage raises nothing, so raises() does not fit
    finally:
        path.write_text(text)


def test_modules_are_counted_by_level_at_every_position(tmp_path: Path) -> None:
    manifest = Ensemble.open(random_ensemble(tmp_path / "tiny")).manifest
    modules = {module.name: module for module in manifest.modules}
    for name, sequence in manifest.sequences.items():
        for position in range(len(sequence.transitions) + 1):
            counts = modules_by_level(manifest, sequence, position)
            assert set(counts) == {level.name for level in manifest.levels}
            at = assignment(manifest, name, position)
            levels = [modules[module].variants[variant].level for module, variant in at.items()]
            assert counts == {level: levels.count(level) for level in counts}
