import codecs
import json
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from flexquant.engine.errors import CheckpointError, UnsupportedModelError
from flexquant.engine.tokenizer import Tokenizer
from support.llama_2_like import like_llama_2

DOCS_LLAMA = Path(__file__).parents[1] / "assets" / "docs-llama"
TEXT = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("ab  \n\t.,é漢字日本😀👩‍👩‍👧‍👦\ufffd")), max_size=40
)
BEGIN, END, USER = "<|begin|>", "<|end|>", "<|user|>"


def library(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def write(folder: Path, tokenizer: tokenizers.Tokenizer, settings: Mapping[str, object] | None = None) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def docs_llama() -> Tokenizer:
    return Tokenizer.open(DOCS_LLAMA)


@pytest.fixture(scope="module")
def llama_2(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    settings = {"bos_token": {"content": "<s>"}, "eos_token": {"content": "</s>"}, "add_bos_token": True}
    return Tokenizer.open(write(tmp_path_factory.mktemp("llama-2"), like_llama_2(), settings))


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*map(stream.push, ids), stream.flush()]


@settings(deadline=None, max_examples=300)
@given(text=TEXT)
def test_any_text_survives(docs_llama: Tokenizer, text: str) -> None:
    ids = docs_llama.encode(text, bos=False)
    assert docs_llama.decode(ids) == text
    assert "".join(streamed(docs_llama, ids)) == text


@settings(deadline=None, max_examples=300)
@given(text=TEXT)
def test_any_text_survives_pieces_and_single_bytes(llama_2: Tokenizer, text: str) -> None:
    ids = llama_2.encode(text, bos=False)
    assert llama_2.decode(ids) == text.replace("▁", " ")
    assert "".join(streamed(llama_2, ids)) == llama_2.decode(ids)


@settings(deadline=None, max_examples=500)
@given(ids=st.lists(st.integers(0, 5000) | st.integers(5, 261), max_size=12))
def test_any_tokens_are_decoded_as_the_library_does(docs_llama: Tokenizer, ids: list[int]) -> None:
    """Byte fragments, special tokens and ids beyond the vocabulary included."""
    assert docs_llama.decode(ids) == library(DOCS_LLAMA).decode(ids)


@settings(deadline=None, max_examples=300)
@given(ids=st.lists(st.integers(0, 2) | st.integers(259, 300), max_size=12))
def test_pieces_are_decoded_as_the_library_does(llama_2: Tokenizer, ids: list[int]) -> None:
    assert llama_2.decode(ids) == like_llama_2().decode(ids)


@settings(deadline=None, max_examples=200)
@given(content=st.binary(max_size=12))
def test_bytes_that_are_no_text_hide_nothing(llama_2: Tokenizer, content: bytes) -> None:
    """The library drops whole runs of bytes for one that is wrong; ours loses only that one."""
    decoded = llama_2.decode([3 + byte for byte in content])
    assert decoded == content.decode("utf-8", "replace").removeprefix(" ")


@settings(deadline=None, max_examples=200)
@given(text=TEXT)
def test_text_comes_as_soon_as_its_characters_are_complete(docs_llama: Tokenizer, text: str) -> None:
    stream, sent, received = docs_llama.stream(), "", b""
    for token_id in docs_llama.encode(text, bos=False):
        sent += stream.push(token_id)
        received += docs_llama.token_bytes(token_id)
        assert sent == received.decode("utf-8", "ignore")  # ignores what is incomplete at the end
    assert stream.flush() == ""
    assert sent == text


def test_an_incomplete_character_is_held_back(llama_2: Tokenizer) -> None:
    euro = [3 + byte for byte in "€".encode()]
    assert streamed(llama_2, euro) == ["", "", "€", ""]
    assert streamed(llama_2, euro[:2]) == ["", "", "\ufffd"]
    a = llama_2.encode("a", bos=False)[-1]
    assert "".join(streamed(llama_2, [*euro[:2], a])) == llama_2.decode([*euro[:2], a])


def test_streams_do_not_share_what_they_hold_back(llama_2: Tokenizer) -> None:
    euro = [3 + byte for byte in "€".encode()]
    one, other = llama_2.stream(), llama_2.stream()
    assert (one.push(euro[0]), other.push(euro[0])) == ("", "")
    assert (one.push(euro[1]), one.push(euro[2])) == ("", "€")
    assert other.flush() == "\ufffd"


def test_a_verbatim_text_keeps_the_space_at_its_start(llama_2: Tokenizer) -> None:
    ids = llama_2.encode("a", bos=False)
    for verbatim, text in ((True, " a"), (False, "a")):
        stream = llama_2.stream(verbatim=verbatim)
        assert "".join([*map(stream.push, ids), stream.flush()]) == text


def test_only_the_tokenizers_own_space_is_stripped(llama_2: Tokenizer) -> None:
    for text in ("a", " a", "  a", " ", "a a", ""):
        assert llama_2.decode(llama_2.encode(text, bos=False)) == text
    ids = llama_2.encode("a", bos=True)
    assert ids[0] == 1
    assert llama_2.decode(ids) == "a"


def test_text_that_looks_like_special_tokens_is_text_unless_asked_for(docs_llama: Tokenizer) -> None:
    prompt = f"{BEGIN}{USER}hi{END}"
    as_tokens = docs_llama.encode(prompt, special=True, bos=False)
    assert as_tokens[:2] == [0, 3]
    assert as_tokens[-1] == 1
    assert docs_llama.decode(as_tokens) == "hi"
    for _ in range(2):  # the switch does not stick
        as_text = docs_llama.encode(prompt, bos=False)
        assert not set(as_text) & {0, 1, 2, 3, 4}
        assert docs_llama.decode(as_text) == prompt
        assert docs_llama.encode(prompt, special=True, bos=False) == as_tokens


@settings(deadline=None, max_examples=100)
@given(
    text=st.lists(TEXT | st.sampled_from([BEGIN, END, USER, "<|system|>", "<|assistant|>"]), max_size=5).map("".join)
)
def test_no_text_of_a_user_becomes_a_special_token(docs_llama: Tokenizer, text: str) -> None:
    ids = docs_llama.encode(text, bos=True)
    assert ids[0] == 0
    assert not set(ids[1:]) & {0, 1, 2, 3, 4}


def test_many_threads_encode_as_one_does(docs_llama: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library keeps a cache for each thread that encodes; and the switch for special tokens is shared by all."""
    texts = [f"word {number} of <s> many</s>" for number in range(40)]
    expected = [docs_llama.encode(text, special=number % 2 == 0, bos=True) for number, text in enumerate(texts)]
    library, threads = docs_llama._library, set[int]()

    class Watched:
        def __setattr__(self, name: str, value: object) -> None:
            setattr(library, name, value)

        def encode(self, text: str, *, add_special_tokens: bool) -> tokenizers.Encoding:
            threads.add(threading.get_ident())
            return library.encode(text, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(docs_llama, "_library", Watched())
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(docs_llama.encode, text, special=number % 2 == 0, bos=True) for number, text in enumerate(texts)
        ]
        assert [answer.result() for answer in asked] == expected
    assert len(threads) == 1


def test_begin_of_text_is_never_doubled(docs_llama: Tokenizer) -> None:
    assert docs_llama.encode("hi", bos=True) == [0, *docs_llama.encode("hi", bos=False)]
    assert docs_llama.encode(f"{BEGIN}hi", special=True, bos=True) == docs_llama.encode("hi", bos=True)
    assert docs_llama.encode("", bos=True) == [0]
    assert docs_llama.encode("", bos=False) == []
    # Spelled out by a user it is text, so it does not stand in for the token.
    assert docs_llama.encode(f"{BEGIN}hi", bos=True)[0] == 0
    assert docs_llama.decode(docs_llama.encode(f"{BEGIN}hi", bos=True)) == f"{BEGIN}hi"


FRAMED = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])


@pytest.mark.parametrize(
    ("settings", "framed", "uses_bos"),
    [
        ({"bos_token": BEGIN, "add_bos_token": True}, False, True),
        ({"bos_token": BEGIN, "add_bos_token": False}, True, False),
        ({"bos_token": BEGIN}, True, True),  # as Llama 3 has it
        ({"bos_token": BEGIN}, False, False),
        ({"bos_token": None, "add_bos_token": False}, False, False),  # as Qwen2 has it
        ({"bos_token": None, "add_bos_token": True}, False, False),
        ({"bos_token": "<unknown>", "add_bos_token": True}, False, False),
        ({"bos_token": {"content": BEGIN, "special": True}, "add_bos_token": None}, True, True),
    ],
)
def test_whether_a_text_begins_with_a_token(
    settings: dict[str, object], framed: bool, uses_bos: bool, tmp_path: Path
) -> None:
    found = library(DOCS_LLAMA)
    found.post_processor = FRAMED if framed else processors.ByteLevel()
    tokenizer = Tokenizer.open(write(tmp_path, found, settings))
    assert (tokenizer.encode("hi", bos=True)[0] == 0) == uses_bos
    assert tokenizer.encode("hi", bos=False)[0] != 0


def test_what_it_says_of_itself(docs_llama: Tokenizer, llama_2: Tokenizer) -> None:
    assert (docs_llama.bos_token, docs_llama.bos_id, docs_llama.eos_token) == (BEGIN, 0, END)
    assert docs_llama.vocab_size == 4096
    assert docs_llama.chat_template is not None
    assert "messages" in docs_llama.chat_template
    assert (llama_2.bos_token, llama_2.bos_id, llama_2.eos_token) == ("<s>", 1, "</s>")
    assert llama_2.chat_template is None


def test_lone_surrogates_become_replacement_characters(docs_llama: Tokenizer) -> None:
    assert docs_llama.decode(docs_llama.encode("a\ud800b", bos=False)) == "a\ufffdb"


def test_long_texts_are_not_cut(tmp_path: Path) -> None:
    found = library(DOCS_LLAMA)
    found.enable_truncation(4)
    found.enable_padding(length=64)
    tokenizer = Tokenizer.open(write(tmp_path, found))
    text = "one two three four five six seven"
    assert tokenizer.decode(tokenizer.encode(text, bos=False)) == text
    assert len(tokenizer.encode("a", bos=False)) == 1


def test_added_tokens_that_are_not_special_are_text(tmp_path: Path) -> None:
    found = library(DOCS_LLAMA)
    found.add_tokens([AddedToken("<tool é>", special=False, normalized=False)])
    tokenizer = Tokenizer.open(write(tmp_path, found))
    ids = tokenizer.encode("a <tool é>b", bos=False)
    assert 4096 in ids
    assert tokenizer.decode(ids) == "a <tool é>b"


def test_a_metaspace_decoder(tmp_path: Path) -> None:
    found = tokenizers.Tokenizer(models.WordLevel({"▁hi": 0, "▁you": 1, "!": 2}, unk_token="!"))
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    tokenizer = Tokenizer.open(write(tmp_path, found))
    assert tokenizer.decode([0, 1, 2]) == found.decode([0, 1, 2]) == "hi you!"


@pytest.mark.parametrize("decoder", [None, decoders.WordPiece(), decoders.CTC(), decoders.Strip(" ", 1, 0)])
def test_an_unknown_decoder_is_named(decoder: decoders.Decoder | None, tmp_path: Path) -> None:
    found = library(DOCS_LLAMA)
    if decoder is not None:
        found.decoder = decoder
    write(tmp_path, found)
    path = tmp_path / "tokenizer.json"
    if decoder is None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder": None}))
    with pytest.raises(UnsupportedModelError, match="decoder") as raised:
        Tokenizer.open(tmp_path)
    assert str(path) in raised.value.message


TEMPLATES: list[tuple[object, str | None, str | None]] = [
    ("{{ messages }}", "{{ messages }}", None),
    (None, None, None),
    ([{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}], "y", "x"),
    ([{"name": "default", "template": "y"}, {"name": "rag", "template": "z"}], "y", None),
]


@pytest.mark.parametrize(("value", "expected", "for_tools"), TEMPLATES)
def test_chat_templates(value: object, expected: str | None, for_tools: str | None, tmp_path: Path) -> None:
    write(tmp_path, library(DOCS_LLAMA), {"chat_template": value})
    found = Tokenizer.open(tmp_path)
    assert (found.chat_template, found.tool_template) == (expected, for_tools)
    (tmp_path / "chat_template.jinja").write_text("{{ 'file' }}")
    found = Tokenizer.open(tmp_path)
    assert (found.chat_template, found.tool_template) == ("{{ 'file' }}", None), (
        "the file counts alone, as in transformers"
    )


def test_special_tokens_can_be_spelled_out(docs_llama: Tokenizer) -> None:
    ids = docs_llama.encode("<|user|>é<|end|>", special=True, bos=False)
    user = docs_llama.special_ids({"<|user|>", "<|nobody|>", "a"})
    assert user == {ids[0]}
    stream = docs_llama.stream(spelled=user)
    assert "".join([*map(stream.push, ids), stream.flush()]) == "<|user|>é"
    assert docs_llama.decode(ids) == "é"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bos_token", 1),
        ("bos_token", {"content": 1}),
        ("eos_token", ["</s>"]),
        ("add_bos_token", "yes"),
        ("chat_template", 1),
        ("chat_template", [{"name": "rag", "template": "x"}]),
        ("chat_template", ["x"]),
    ],
)
def test_a_setting_of_no_use_is_named(name: str, value: object, tmp_path: Path) -> None:
    write(tmp_path, library(DOCS_LLAMA), {name: value})
    with pytest.raises(CheckpointError, match=rf"tokenizer_config\.json: {name}"):
        Tokenizer.open(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_damaged_files_are_named(file: str, content: bytes, tmp_path: Path) -> None:
    shutil.copytree(DOCS_LLAMA, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        Tokenizer.open(tmp_path)
    assert str(tmp_path / file) in raised.value.message


def test_json_that_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.open(tmp_path)


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    write(tmp_path, library(DOCS_LLAMA))
    (tmp_path / "chat_template.jinja").write_bytes(codecs.BOM_UTF16_LE)
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: not UTF-8"):
        Tokenizer.open(tmp_path)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not there") as raised:
        Tokenizer.open(tmp_path)
    assert raised.value.hint == "Is this a model folder?"
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(CheckpointError) as raised:
        Tokenizer.open(tmp_path)
    assert "AutoTokenizer" in (raised.value.hint or "")
