"""Random JSON schemas whose values are all of bounded length, so that a model comes to an end with any of them."""

from collections.abc import Callable
from random import Random
from typing import Any

Schema = dict[str, Any]
Kind = Callable[[Random, int, tuple[str, ...]], Schema]
WORDS = ("name", "kind", "count", "größe", "is valid", 'say "hi"', "items", "a/b", "$ref", "🎉", "back\\slash", "path")


def random_schema(seed: int) -> Schema:
    """The schema of a number: mostly an object, as OpenAI's API asks for, with definitions that it refers to."""
    random = Random(seed)
    kinds: tuple[Kind, ...] = (_object, _object, _object, _array, _any_of)
    definitions = {f"part{number}": _schema(random, 1, ()) for number in range(random.randint(0, 2))}
    schema = random.choice(kinds)(random, 2, tuple(definitions))
    return schema | ({"$defs": definitions} if definitions else {})


def _schema(random: Random, depth: int, definitions: tuple[str, ...]) -> Schema:
    if definitions and random.random() < 0.2:
        return {"$ref": f"#/$defs/{random.choice(definitions)}"}
    nested: tuple[Kind, ...] = (_object, _array, _any_of) if depth else ()
    kinds: tuple[Kind, ...] = (*nested, _string, _integer, _boolean, _null, _enum, _const)
    return random.choice(kinds)(random, depth, definitions)


def _object(random: Random, depth: int, definitions: tuple[str, ...]) -> Schema:
    names = random.sample(WORDS, random.randint(0, 4))
    return {
        "type": "object",
        "properties": {name: _schema(random, depth - 1, definitions) for name in names},
        "required": [name for name in names if random.random() < 0.7],
        "additionalProperties": False,
    }


def _array(random: Random, depth: int, definitions: tuple[str, ...]) -> Schema:
    least = random.randint(0, 2)
    items = _schema(random, depth - 1, definitions)
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + random.randint(0, 2)}


def _any_of(random: Random, depth: int, definitions: tuple[str, ...]) -> Schema:
    return {"anyOf": [_schema(random, depth - 1, definitions) for _ in range(random.randint(1, 3))]}


def _string(random: Random, depth: int, definitions: tuple[str, ...]) -> Schema:
    del depth, definitions
    least = random.randint(0, 4)
    return {"type": _nullable(random, "string"), "minLength": least, "maxLength": least + random.randint(0, 12)}


def _integer(random: Random, depth: int, definitions: tuple[str, ...]) -> Schema:
    del depth, definitions
    least = random.randint(-1000, 1000)
    return {"type": _nullable(random, "integer"), "minimum": least, "maximum": least + random.randint(0, 5000)}


def _boolean(random: Random, depth: int, definitions: tuple[str, ...]) -> Schema:
    del depth, definitions
    return {"type": _nullable(random, "boolean")}


def _null(random: Random, depth: int, definitions: tuple[str, ...]) -> Schema:
    del random, depth, definitions
    return {"type": "null"}


def _enum(random: Random, depth: int, definitions: tuple[str, ...]) -> Schema:
    del depth, definitions
    values = [*WORDS, 0, -7, 2.5, True, None, [1, "x"], {"a": 1}]
    return {"enum": random.sample(values, random.randint(1, 4))}


def _const(random: Random, depth: int, definitions: tuple[str, ...]) -> Schema:
    return {"const": _enum(random, depth, definitions)["enum"][0]}


def _nullable(random: Random, kind: str) -> object:
    return [kind, "null"] if random.random() < 0.3 else kind
