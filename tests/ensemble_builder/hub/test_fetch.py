"""Checkpoints from a stand-in for the hub: what is fetched, what is refused, and what is not fetched twice."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from flexquant.engine.errors import FlexQuantError, InputError, UnsupportedModelError
from flexquant.engine.hub_id import HubId
from flexquant.engine.model_config import read_model_config
from flexquant.ensemble_builder.hub.disk_room import Disk, Room
from flexquant.ensemble_builder.hub.fetch import fetch_checkpoint
from flexquant.ensemble_builder.planned_ensemble import stored_bytes
from flexquant.ensemble_builder.progress import Progress
from support.hub import TOKEN, Hub, Repository, files_of

DOCS_LLAMA = Path(__file__).parents[2] / "assets" / "docs-llama"
FILES = files_of(DOCS_LLAMA)
WEIGHTS = "model.safetensors"
SIZE = len(FILES[WEIGHTS])
KEPT = constants.DOWNLOAD_CHUNK_SIZE
"""Bytes that the library hands on at a time."""
CUT = KEPT + (SIZE - KEPT) // 2
READ = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS}
JUNK = {
    "pytorch_model.bin": b"pickle",
    "model.gguf": b"GGUF",
    "consolidated.safetensors": b"the same again",
    "original/model.safetensors": b"and again",
    "README.md": b"# card",
}


def changed_config(**changes: object) -> dict[str, bytes]:
    """The model's files, with other fields in config.json."""
    return {**FILES, "config.json": json.dumps({**json.loads(FILES["config.json"]), **changes}).encode()}


def exl2(prefix: str = "output") -> dict[str, bytes]:
    """Something that calls itself an EXL2 checkpoint."""
    files = changed_config(quantization_config={"quant_method": "exl2", "bits": 4.0})
    files[f"{prefix}.safetensors"] = files.pop(WEIGHTS)
    return files


def fetch(source: str, out: Path, *, quantized: bool = False, room: Room | None = None) -> tuple[Path, str]:
    """The folder, and what a person was told meanwhile."""
    said = io.StringIO()
    hub_id = HubId.parse(source)
    assert hub_id is not None
    folder = fetch_checkpoint(hub_id, quantized=quantized, room=room or Room(out, (8.0, 3.0)), progress=Progress(said))
    return folder, said.getvalue()


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_read_is_fetched_and_only_once(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/docs-llama"] = Repository({"main": FILES | JUNK})
    folder, said = fetch("org/docs-llama", tmp_path / "out")
    assert names_in(folder) >= READ
    assert not names_in(folder) & JUNK.keys()
    assert not any(request.endswith(tuple(JUNK)) for request in hub.requests)
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert hub.sent[WEIGHTS] == SIZE
    assert f"downloading org/docs-llama: {SIZE / 1e6:.1f} MB/{SIZE / 1e6:.1f} MB in" in said
    hub.requests.clear()
    assert fetch("org/docs-llama", tmp_path / "out")[0] == folder
    assert hub.requests == ["GET /api/models/org/docs-llama/revision/main"]


def test_a_revision_is_its_own_checkpoint_and_a_commit_needs_no_question(hub: Hub, tmp_path: Path) -> None:
    other = changed_config(max_position_embeddings=512)
    repository = hub.repositories["org/model"] = Repository({"main": FILES, "short": other})
    main, short = fetch("org/model", tmp_path)[0], fetch("org/model@short", tmp_path)[0]
    assert main != short
    assert read_model_config(short).context == 512
    hub.requests.clear()
    commit = repository.commit("short")
    assert fetch(f"org/model@{commit}", tmp_path)[0] == short
    assert hub.requests == []


def test_a_branch_that_moved_is_fetched_again_and_shares_what_is_the_same(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository({"main": FILES})
    before = fetch("org/model", tmp_path)[0]
    hub.repositories["org/model"] = Repository({"main": changed_config(max_position_embeddings=512)})
    after = fetch("org/model", tmp_path)[0]
    assert (read_model_config(before).context, read_model_config(after).context) == (2048, 512)
    assert hub.sent[WEIGHTS] == SIZE


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository({"main": FILES})
    hub.cut_after[WEIGHTS] = CUT
    folder, _ = fetch("org/model", tmp_path)
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert hub.sent[WEIGHTS] == CUT + SIZE - KEPT
    assert len(hub.asked_for(f"GET /org/model/resolve/{folder.name}/{WEIGHTS}")) == 2


FETCHES = """
import sys
from pathlib import Path
from flexquant.engine.hub_id import HubId
from flexquant.ensemble_builder.hub.disk_room import Room
from flexquant.ensemble_builder.hub.fetch import fetch_checkpoint
from flexquant.ensemble_builder.progress import Progress
fetch_checkpoint(HubId.parse("org/model"), quantized=False, room=Room(Path(sys.argv[1])), progress=Progress())
"""


def test_what_arrived_before_a_kill_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository({"main": FILES})
    hub.hold_after[WEIGHTS] = CUT
    environment = os.environ | hub.environment(tmp_path / "hf")
    with subprocess.Popen([sys.executable, "-c", FETCHES, str(tmp_path)], env=environment) as process:
        assert hub.held.wait(120)
        (part,) = wait_for_part(tmp_path / "hf", at_least=KEPT)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert part.stat().st_size == KEPT
    hub.hold_after.clear()
    hub.release.set()
    hub.sent.clear()
    folder, _ = fetch("org/model", tmp_path)
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert hub.sent == {WEIGHTS: SIZE - KEPT}
    assert not part.exists()


def wait_for_part(home: Path, *, at_least: int) -> list[Path]:
    """Files that are being fetched, once something of them is on disk."""
    deadline = time.monotonic() + 60
    while True:
        found = [path for path in home.rglob("*.incomplete") if path.stat().st_size >= at_least]
        if found:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_arrives_damaged_is_refused_and_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository({"main": FILES})
    hub.damaged.add(WEIGHTS)
    with pytest.raises(FlexQuantError, match=f"{WEIGHTS}: what arrived has the sha256") as refused:
        fetch("org/model", tmp_path)
    assert refused.value.exit_code == 1
    hub.damaged.clear()
    hub.sent.clear()
    folder, _ = fetch("org/model", tmp_path)
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert hub.sent[WEIGHTS] == SIZE


def test_more_than_the_file_is_on_disk_already(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository({"main": FILES})
    hub.damaged.add(WEIGHTS)
    with pytest.raises(FlexQuantError):
        fetch("org/model", tmp_path)
    (part,) = wait_for_part(Path(constants.HF_HUB_CACHE), at_least=0)
    part.write_bytes(b"x" * (SIZE + 1))
    hub.damaged.clear()
    folder, _ = fetch("org/model", tmp_path)
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_gated_missing_and_private_models_say_what_to_do(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/gated"] = Repository({"main": FILES}, gated=True)
    hub.repositories["org/private"] = Repository({"main": FILES}, private=True)
    for token in (None, "hf_of_somebody_else"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(InputError, match="org/gated: this model is gated") as gated:
            fetch("org/gated", tmp_path)
        assert f"{hub.url}/org/gated" in (gated.value.hint or "")
        assert "HF_TOKEN" in (gated.value.hint or "")
        for name in ("org/private", "org/nothing"):
            with pytest.raises(InputError, match=f"{name}: there is no such folder here, and .* has no such model"):
                fetch(name, tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("org/gated", "org/private"):
        assert names_in(fetch(name, tmp_path)[0]) >= READ
    assert WEIGHTS in hub.sent


@pytest.mark.parametrize(
    ("files", "message", "hint"),
    [
        ({name: FILES[name] for name in FILES if name != WEIGHTS}, r"no \*\.safetensors", "original repository"),
        ({name: FILES[name] for name in FILES if name != "config.json"}, r"no config\.json", "@BRANCH"),
        ({name: FILES[name] for name in FILES if name != "tokenizer.json"}, r"no tokenizer\.json", "AutoTokenizer"),
        (changed_config(model_type="mamba"), r"config\.json: model_type is 'mamba'", "llama"),
        (exl2(), "single EXL2 checkpoint", "org/name@6.0bpw,org/name@3.0bpw"),
    ],
)
def test_what_cannot_be_built_is_refused_before_its_weights(
    hub: Hub, tmp_path: Path, files: dict[str, bytes], message: str, hint: str
) -> None:
    hub.repositories["org/model"] = Repository({"main": files})
    with pytest.raises(InputError, match=message) as refused:
        fetch("org/model", tmp_path)
    assert hint in (refused.value.hint or "")
    assert not hub.asked_for("/storage/")


def test_unsupported_model_has_its_own_class(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository({"main": changed_config(model_type="mamba")})
    with pytest.raises(UnsupportedModelError):
        fetch("org/model", tmp_path)


def test_unknown_revision_and_impossible_name(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository({"main": FILES})
    with pytest.raises(InputError, match=r"org/model has no revision 9\.0bpw"):
        fetch("org/model@9.0bpw", tmp_path)
    with pytest.raises(InputError, match="no such names"):
        fetch("org/a--b", tmp_path)


def test_quantized_checkpoints_for_a_pair(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository({"main": FILES, "4.0bpw": exl2()})
    folder, _ = fetch("org/model@4.0bpw", tmp_path, quantized=True)
    assert "output.safetensors" in names_in(folder)
    with pytest.raises(InputError, match="org/model: this is no EXL2 checkpoint"):
        fetch("org/model", tmp_path, quantized=True)


def test_too_small_a_disk_is_told_before_the_weights(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository({"main": FILES})
    out = tmp_path / "out"
    built = stored_bytes(read_model_config(DOCS_LLAMA), (8.0, 3.0), 32)

    def room(*, cache: int, ensemble: int | None = None) -> Room:
        """One disk for both, or one each."""

        def probe(folder: Path) -> Disk:
            if ensemble is not None and folder == out:
                return Disk(2, ensemble)
            return Disk(1, cache)

        return Room(out, (8.0, 3.0), probe=probe)

    with pytest.raises(FlexQuantError, match=r"0\.013 GB to download and 0\.0\d\d GB for the ensemble are needed"):
        fetch("org/model", out, room=room(cache=SIZE + built - 1))
    with pytest.raises(FlexQuantError, match="GB to download are needed"):
        fetch("org/model", out, room=room(cache=SIZE - 1, ensemble=built))
    with pytest.raises(FlexQuantError, match=r"disk of .*out is too small: .* for the ensemble are") as refused:
        fetch("org/model", out, room=room(cache=SIZE, ensemble=built - 1))
    assert refused.value.exit_code == 1
    assert "HF_HOME" in (refused.value.hint or "")
    assert not hub.asked_for("/storage/")
    fetch("org/model", out, room=room(cache=SIZE, ensemble=built))
    with pytest.raises(FlexQuantError, match=r"too small: 0\.0\d\d GB for the ensemble are needed"):
        fetch("org/model", out, room=room(cache=built - 1))
    fetch("org/model", out, room=room(cache=built))


def test_a_nested_ensemble_needs_the_room_of_its_own_files(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository({"main": FILES})
    built = stored_bytes(read_model_config(DOCS_LLAMA), (8.0, 4.0), 32, nested=True)
    assert built < 0.8 * stored_bytes(read_model_config(DOCS_LLAMA), (8.0, 4.0), 32)
    fetch("org/model", tmp_path, room=Room(tmp_path, (8.0, 4.0), nested=True, probe=lambda _: Disk(1, SIZE + built)))


def test_without_a_network_the_cache_is_enough(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/model"] = Repository({"main": FILES})
    folder, _ = fetch("org/model", tmp_path)
    hub.requests.clear()
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        assert fetch("org/model", tmp_path)[0] == folder
        with pytest.raises(InputError, match="org/other: HF_HUB_OFFLINE is set") as refused:
            fetch("org/other", tmp_path)
        assert "Unset HF_HUB_OFFLINE" in (refused.value.hint or "")
    assert hub.requests == []
    with monkeypatch.context() as down:
        down.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
        assert fetch("org/model", tmp_path)[0] == folder
        with pytest.raises(FlexQuantError, match=r"http://127\.0\.0\.1:1 cannot be reached") as unreachable:
            fetch("org/other", tmp_path)
        assert unreachable.value.exit_code == 1


def test_a_hub_that_fails_is_no_mistake_of_the_user(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository({"main": FILES})
    hub.failing = True
    with pytest.raises(FlexQuantError, match=f"org/model: {hub.url} answers 503") as refused:
        fetch("org/model", tmp_path)
    assert refused.value.exit_code == 1


def test_a_login_page_is_not_taken_for_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.login_page = True
    with pytest.raises(FlexQuantError, match="is not the hub's") as refused:
        fetch("org/model", tmp_path)
    assert "HF_ENDPOINT" in (refused.value.hint or "")


def test_of_a_model_in_several_files_all_are_fetched_and_no_other_copy(hub: Hub, tmp_path: Path) -> None:
    shards = {f"model-0000{at}-of-00002.safetensors": FILES[WEIGHTS][:1000] + bytes([at]) for at in (1, 2)}
    index = json.dumps({"weight_map": {str(at): name for at, name in enumerate(shards)}}).encode()
    files = FILES | shards | {"model.safetensors.index.json": index}
    hub.repositories["org/model"] = Repository({"main": files})
    folder, _ = fetch("org/model", tmp_path)
    assert {path.name for path in folder.glob("*.safetensors")} == set(shards)


def test_half_a_checkpoint_is_not_taken_for_a_whole_one(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/model"] = Repository({"main": FILES})
    hub.damaged.add(WEIGHTS)
    with pytest.raises(FlexQuantError):
        fetch("org/model", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="does not have all of this model"):
        fetch("org/model", tmp_path)
