"""Text to tokens and back, from a checkpoint's `tokenizer.json` and `tokenizer_config.json`.

Encoding is the `tokenizers` library's. Decoding is ours: every token stands for a few bytes, and text is the UTF-8
of all of them one after the other. So text can be streamed exactly, and in time that does not grow with its length.
"""

import codecs
import json
import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import tokenizers

from flexquant.engine.config_fields import read_object
from flexquant.engine.errors import CheckpointError, UnsupportedModelError

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """The tokenizer of one model. Every method may be called from any thread."""

    def __init__(
        self,
        library: tokenizers.Tokenizer,
        pieces: "_Pieces",
        *,
        bos_token: str | None,
        eos_token: str | None,
        add_bos: bool,
        chat_template: str | None,
        tool_template: str | None,
    ) -> None:
        self._library = library
        # One thread encodes for all: with and without special tokens is a switch of the library's object, and the
        # library keeps a cache of words for each thread that encodes, of 2 MiB once it is full.
        self._encoding = ThreadPoolExecutor(1, "flexquant-tokenizer")
        self._pieces = pieces
        self.bos_token = bos_token
        self.eos_token = eos_token
        self.bos_id: int | None = library.token_to_id(bos_token) if bos_token else None
        self.chat_template = chat_template
        """Its jinja2 source, None where the model brings none."""
        self.tool_template = tool_template
        """The source of a chat template of its own for conversations with tools, None where the model has none."""
        self._add_bos = add_bos
        self._special = frozenset(id_ for id_, token in library.get_added_tokens_decoder().items() if token.special)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the tokenizer of a model folder.

        Raises:
            CheckpointError: A file is missing or damaged, or a field has no usable value; the message names it.
            UnsupportedModelError: The tokenizer turns tokens into text in a way that we do not know.
        """
        path = folder / "tokenizer.json"
        if not path.exists():
            raise CheckpointError(
                f"{path}: not there",
                hint="Save the model's tokenizer with transformers' AutoTokenizer; that writes the file."
                if (folder / "tokenizer.model").exists()
                else "Is this a model folder?",
            )
        description = read_object(path)
        try:
            library = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more specific
            raise CheckpointError(f"{path}: not a tokenizer: {error}") from error
        # Settings of training runs; they would cut long prompts without a word.
        library.no_truncation()
        library.no_padding()
        settings_path = folder / "tokenizer_config.json"
        settings = read_object(settings_path) if settings_path.exists() else {}
        bos_token = _token(settings_path, settings, "bos_token")
        add_bos = settings.get("add_bos_token")
        if add_bos is None:
            # Where the settings are silent, the library's own way of framing a text decides.
            framed = library.encode("").tokens
            add_bos = bos_token is not None and framed[:1] == [bos_token]
        if not isinstance(add_bos, bool):
            raise CheckpointError(f"{settings_path}: add_bos_token: {add_bos!r} is not true or false")
        templates = _chat_templates(folder, settings_path, settings)
        return cls(
            library,
            _pieces(path, description.get("decoder")),
            bos_token=bos_token,
            eos_token=_token(settings_path, settings, "eos_token"),
            add_bos=add_bos,
            chat_template=templates.get("default"),
            tool_template=templates.get("tool_use"),
        )

    @property
    def vocab_size(self) -> int:
        """Tokens that the tokenizer knows; a model's own vocabulary may be padded beyond them."""
        size: int = self._library.get_vocab_size(with_added_tokens=True)
        return size

    def encode(self, text: str, *, special: bool = False, bos: bool) -> list[int]:
        """Tokens of `text`.

        Args:
            text: Lone surrogates, which no encoding has, become U+FFFD.
            special: Whether special tokens spelled out in the text are such tokens (a rendered chat template) or just
                text (what a user wrote).
            bos: Whether to begin with the model's begin-of-text token, if it uses one. It is never doubled.
        """
        valid = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids = self._encoding.submit(self._encode, valid, special).result()
        if bos and self._add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            return [self.bos_id, *ids]
        return ids

    def _encode(self, text: str, special: bool) -> list[int]:
        self._library.encode_special_tokens = not special
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of tokens, without special ones; bytes that are no UTF-8 become U+FFFD."""
        stream = self.stream()
        return "".join([*map(stream.push, ids), stream.flush()])

    def stream(self, *, spelled: Collection[int] = (), verbatim: bool = False) -> "DetokenizerStream":
        """A new text, decoded token by token.

        Args:
            spelled: Special tokens that are part of the text; others are not.
            verbatim: With the spaces that the tokenizer puts before a text.
        """
        return DetokenizerStream(self, 0 if verbatim else self._pieces.leading_spaces, spelled)

    def special_ids(self, spellings: Collection[str]) -> frozenset[int]:
        """Ids of those of `spellings` that are special tokens."""
        return self._special & {self._library.token_to_id(spelling) for spelling in spellings}

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text: nothing for special tokens and for ids beyond the vocabulary."""
        token = None if token_id in self._special else self._library.id_to_token(token_id)
        return b"" if token is None else self._pieces.bytes_of(token)

    def spelling(self, token_id: int) -> str:
        """How the vocabulary spells a token; `token_id:ID` beyond it, where a model's vocabulary is padded."""
        token: str | None = self._library.id_to_token(token_id)
        return f"token_id:{token_id}" if token is None else token


class DetokenizerStream:
    """Text that grows token by token. Characters whose bytes are not complete yet are held back.

    Args:
        tokenizer: Knows the tokens' bytes.
        leading_spaces: Spaces at the start of the text that the tokenizer itself put there.
        spelled: Special tokens that are part of the text.
    """

    def __init__(self, tokenizer: Tokenizer, leading_spaces: int, spelled: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._spelled = spelled
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._to_strip = leading_spaces

    def push(self, token_id: int) -> str:
        """The text that became complete with this token, often empty."""
        if token_id in self._spelled:
            return self._stripped(self._decoder.decode(self._tokenizer.spelling(token_id).encode()))
        return self._stripped(self._decoder.decode(self._tokenizer.token_bytes(token_id)))

    def flush(self) -> str:
        """The rest at the end of the text: U+FFFD if it ends within a character."""
        return self._stripped(self._decoder.decode(b"", final=True))

    def _stripped(self, text: str) -> str:
        while self._to_strip and text:
            if text[0] != " ":
                self._to_strip = 0
                break
            text = text[1:]
            self._to_strip -= 1
        return text


@dataclass(frozen=True, slots=True)
class _Pieces:
    """How the spelling of a token in the vocabulary becomes bytes."""

    byte_level: bool
    """Each character stands for one byte, by the table of GPT-2."""
    byte_fallback: bool
    """Tokens such as "<0xE2>" stand for one byte."""
    replacements: tuple[tuple[str, str], ...]
    leading_spaces: int

    def bytes_of(self, token: str) -> bytes:
        if self.byte_level:
            # Added tokens are spelled as they are; like the library, take a token with any other character as text.
            known = [_BYTE_LEVEL.get(character) for character in token]
            return token.encode() if None in known else bytes(byte for byte in known if byte is not None)
        if self.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        for old, new in self.replacements:
            token = token.replace(old, new)
        return token.encode()


def _byte_level_alphabet() -> dict[str, int]:
    """Character to byte: printable Latin-1 characters are themselves, the other 68 bytes follow from U+0100 on.

    Source: GPT-2's byte-level BPE.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_LEVEL: Final = _byte_level_alphabet()


def _pieces(path: Path, decoder: object) -> _Pieces:
    """Read the "decoder" of a `tokenizer.json`: one step, or a sequence of them."""
    steps = decoder.get("decoders") if isinstance(decoder, dict) and decoder.get("type") == "Sequence" else [decoder]
    byte_level = byte_fallback = fused = False
    replacements: list[tuple[str, str]] = []
    leading_spaces = 0
    for step in steps if isinstance(steps, list) else [steps]:
        match step:
            case {"type": "ByteLevel"}:
                byte_level = True
            case {"type": "ByteFallback"}:
                byte_fallback = True
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                replacements.append((old, new))
            case {"type": "Metaspace", "replacement": str(old), **rest}:
                replacements.append((old, " "))
                leading_spaces = 0 if rest.get("prepend_scheme") == "never" else 1
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0} if fused:
                leading_spaces = start
            case _:
                raise UnsupportedModelError(
                    f"{path}: decoder: {json.dumps(step)[:200]} is not supported",
                    hint="Supported: ByteLevel, Metaspace, and Replace, ByteFallback, Fuse, Strip as in Llama 2.",
                )
    return _Pieces(byte_level, byte_fallback, tuple(replacements), leading_spaces)


def _token(path: Path, settings: dict[str, Any], name: str) -> str | None:
    """A token of the settings: a string, or an object whose `content` is one."""
    value = settings.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{path}: {name}: {value!r} is not a string")
    return value


def _chat_templates(folder: Path, path: Path, settings: dict[str, Any]) -> dict[str, str]:
    """The templates by name: that of `chat_template.jinja` if it is there, else those of the settings.

    One without a name is called "default"; the one for conversations with tools is called "tool_use".
    """
    file = folder / "chat_template.jinja"
    if file.exists():
        return {"default": _template_file(file)}
    match settings.get("chat_template"):
        case None:
            return {}
        case str(template):
            return {"default": template}
        case list(entries):
            templates = {}
            for entry in entries:
                match entry:
                    case {"name": str(name), "template": str(template)}:
                        templates[name] = template
                    case _:
                        raise CheckpointError(f"{path}: chat_template: {entry!r} is no named template")
            if "default" not in templates:
                raise CheckpointError(f'{path}: chat_template: none of its templates is named "default"')
            return templates
        case _:
            raise CheckpointError(f"{path}: chat_template: neither a string nor a list of named templates")


def _template_file(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: not UTF-8") from error
