"""What `--model` may be."""

import json
import sys
from pathlib import Path

import pytest

from flexquant.engine.errors import FlexQuantError, InputError, UsageError
from flexquant.server import model_source
from flexquant.server.model_source import fingerprint, resolve

BUILDER = """
import json, pathlib, sys
arguments = sys.argv[1:]
out = pathlib.Path(arguments[arguments.index("--out") + 1])
out.mkdir(parents=True)
(out / "arguments").write_text(json.dumps(arguments))
if "fail" in arguments[0]:
    sys.exit(int(arguments[0][-1]))
(out / "ensemble.json").write_text("{}")
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment with a cache of its own, and a builder that writes down how it was called."""
    monkeypatch.setattr(model_source, "BUILDER", (sys.executable, "-c", BUILDER))
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def checkpoint(folder: Path, *, exl2: bool = False, weights: bytes = b"w") -> Path:
    folder.mkdir(parents=True)
    config: dict[str, object] = {"model_type": "llama"}
    if exl2:
        config["quantization_config"] = {"quant_method": "exl2"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_ensemble_folder_is_served_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "ensemble.json").write_text("{}")
    assert resolve(str(tmp_path)) == tmp_path


def test_checkpoint_is_built_once(tmp_path: Path, cache: dict[str, str]) -> None:
    model = checkpoint(tmp_path / "my-model")
    built = resolve(str(model), cache)
    assert built.name.startswith("my-model-")
    assert str(tmp_path / "cache") in str(built)
    assert json.loads((built / "arguments").read_text())[:5] == [str(model), "--levels", "8,3", "--device", "auto"]
    (built / "arguments").unlink()
    assert resolve(str(model), cache) == built
    assert not (built / "arguments").exists()


def test_a_builder_leaves_the_gpu_alone_where_the_daemon_does(tmp_path: Path, cache: dict[str, str]) -> None:
    pair = [str(checkpoint(tmp_path / name, exl2=True)) for name in ("up", "low")]
    for source in (str(checkpoint(tmp_path / "my-model")), ",".join(pair), "org/name"):
        arguments = json.loads((resolve(source, cache, device="cpu") / "arguments").read_text())
        assert arguments[arguments.index("--device") + 1] == "cpu"


def test_pair_of_exl2_folders_is_built_by_search(tmp_path: Path, cache: dict[str, str]) -> None:
    up, low = checkpoint(tmp_path / "up", exl2=True), checkpoint(tmp_path / "low", exl2=True)
    built = resolve(f"{up},{low}", cache)
    assert json.loads((built / "arguments").read_text())[:2] == ["--from-checkpoints", f"{up},{low}"]
    assert resolve(f"{low},{up}", cache) != built


def test_another_content_is_another_ensemble(tmp_path: Path, cache: dict[str, str]) -> None:
    one = checkpoint(tmp_path / "a" / "model", weights=b"1" * 100)
    other = checkpoint(tmp_path / "b" / "model", weights=b"2" * 100)
    same = checkpoint(tmp_path / "c" / "model", weights=b"1" * 100)
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    assert resolve(str(one), cache) == resolve(str(same), cache) != resolve(str(other), cache)


def test_failed_build_is_an_error_and_not_cached(tmp_path: Path, cache: dict[str, str]) -> None:
    model = checkpoint(tmp_path / "fail-1")
    for environment in (cache, cache | {"XDG_CACHE_HOME": str(tmp_path / "second")}):
        with pytest.raises(FlexQuantError, match="could not be built") as failed:
            resolve(str(model), environment)
        assert failed.value.exit_code == 1
        assert "Starting again" in (failed.value.hint or "")


def test_what_the_builder_refuses_is_not_worth_starting_again(tmp_path: Path, cache: dict[str, str]) -> None:
    with pytest.raises(InputError, match="could not be built") as refused:
        resolve(str(checkpoint(tmp_path / "fail-3")), cache)
    assert refused.value.hint is None


def test_single_exl2_folder_says_that_two_are_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="single EXL2") as refused:
        resolve(str(checkpoint(tmp_path / "exl2", exl2=True)))
    assert "A,B" in (refused.value.hint or "")


def test_pair_must_be_exl2(tmp_path: Path) -> None:
    up, dense = checkpoint(tmp_path / "up", exl2=True), checkpoint(tmp_path / "dense")
    with pytest.raises(InputError, match="dense is no EXL2"):
        resolve(f"{up},{dense}")
    with pytest.raises(InputError, match="gone is no checkpoint"):
        resolve(f"{up},{tmp_path / 'gone'}")
    with pytest.raises(UsageError, match="A,B"):
        resolve(f"{up},{up},{up}")


def test_model_of_the_hub_is_left_to_the_builder_and_built_once(cache: dict[str, str]) -> None:
    built = resolve("org/my-model", cache)
    assert built.name.startswith("my-model-")
    assert json.loads((built / "arguments").read_text())[:3] == ["org/my-model", "--levels", "8,3"]
    (built / "arguments").unlink()
    assert resolve("org/my-model@main", cache) == built
    assert not (built / "arguments").exists()


def test_each_revision_is_an_ensemble_of_its_own(cache: dict[str, str]) -> None:
    built = resolve("org/my-model@v2", cache)
    assert json.loads((built / "arguments").read_text())[0] == "org/my-model@v2"
    assert built != resolve("org/my-model", cache) != resolve("other/my-model", cache)


def test_pair_from_the_hub_and_mixed_with_a_folder(tmp_path: Path, cache: dict[str, str]) -> None:
    built = resolve("org/a@8.0bpw, org/a@3.0bpw", cache)
    assert json.loads((built / "arguments").read_text())[:2] == ["--from-checkpoints", "org/a@8.0bpw,org/a@3.0bpw"]
    low = checkpoint(tmp_path / "low", exl2=True)
    mixed = resolve(f"org/a@8.0bpw,{low}", cache)
    assert mixed != built
    assert json.loads((mixed / "arguments").read_text())[1] == f"org/a@8.0bpw,{low}"


def test_missing_folder_and_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder") as missing:
        resolve(str(tmp_path / "gone"))
    assert "org/name" in (missing.value.hint or "")
    with pytest.raises(InputError, match=r"config\.json"):
        resolve(str(tmp_path))


def test_damaged_config_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not valid JSON"):
        resolve(str(folder))
