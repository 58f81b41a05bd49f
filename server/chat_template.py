"""Chat templates: a model's own jinja2 program that turns messages into a prompt.

The program comes with a downloaded model, so it runs in jinja2's immutable sandbox and, beyond that, within a budget of
work, in units of about one character:

- every turn of a loop and every call of a macro pays for the fixed text in it;
- every value that is put out pays for its size, whether it goes into the prompt or into a `{% set %}` block;
- operators, filters and methods that build text or lists pay for the result before it is built.

Filters and methods of strings are those that chat templates use; any other is an error that names it.
"""

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, NoReturn

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from flexquant.engine.errors import CheckpointError
from flexquant.server.api_error import ApiError

BASE_BUDGET: Final = 1_000_000
BUDGET_PER_CHARACTER: Final = 50
_TURN: Final = 16
_FILTERS: Final = (
    "abs capitalize count d default dictsort first float int items last length list lower map max min reject "
    "rejectattr reverse round safe select selectattr sort string title trim unique upper"
)
_STRING_METHODS: Final = (
    "capitalize count endswith find index isdigit isspace join lower lstrip partition removeprefix removesuffix "
    "replace rfind rpartition rsplit rstrip split splitlines startswith strip title upper"
)

_left: ContextVar[int] = ContextVar("work that this rendering may still do")


def _pay(units: int) -> str:
    left = _left.get() - abs(units)
    _left.set(left)
    if left < 0:
        raise TemplateError("it does more work than its messages account for")
    return ""


def _weigh(value: object) -> object:
    """Pay for writing `value` out, and return it. Jinja calls this for every value that is put out (`finalize`)."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _weigh(key)
            _weigh(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _weigh(inner)
    else:
        _pay(len(value) if isinstance(value, str) else 8)
    return value


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple) else 8


def _replace(text: object, old: object, new: object, count: int | None = None) -> str:
    whole, before, after = str(text), str(old), str(new)
    _pay(len(whole) + whole.count(before) * len(after))
    return whole.replace(before, after, -1 if count is None else count)


def _join(parts: Sequence[object], between: object = "") -> str:
    texts = [str(_weigh(part)) for part in parts]
    _pay(len(str(between)) * len(texts))
    return str(between).join(texts)


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    _pay(len(numbers))
    return numbers


def _tojson(value: object, indent: int | None = None, **_: object) -> str:
    """As Hugging Face defines it: not escaped for HTML, letters of all scripts as they are."""
    _weigh(value)
    if indent is not None and not 0 <= indent <= 8:
        raise TemplateError("tojson's indent must be 0 to 8")
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


class _Metered(NodeTransformer):
    """Makes bodies of loops and macros pay when they are entered, and `~` a call that pays."""

    def _enter(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        if isinstance(node, nodes.For) and node.recursive:
            raise TemplateSyntaxError("recursive loops are not supported", node.lineno)
        fixed = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
        call = nodes.Call(nodes.Name("_pay", "load"), [nodes.Const(_TURN + fixed)], [], None, None)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(call).set_lineno(node.lineno))
        return node

    visit_For = visit_Macro = visit_CallBlock = _enter  # noqa: N815  # names that NodeTransformer looks for

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802  # as above
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "join", [], [], None, None, lineno=node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], finalize=_weigh)
        self.filters = {name: self.filters[name] for name in _FILTERS.split()}
        self.filters |= {"replace": _replace, "join": _join, "tojson": _tojson}
        self.globals = {"dict": dict, "namespace": self.globals["namespace"], "range": _range, "_pay": _pay}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Metered().visit(super()._parse(source, name, filename))
        assert isinstance(tree, nodes.Template)
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise TemplateError(f"{operator} is not supported here")
        if operator == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            _pay(_length(left) * max(right, 0) if isinstance(right, int) else _length(right) * max(left, 0))
        else:
            _pay(_length(left) + _length(right))
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr not in _STRING_METHODS.split():
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """`format` is no exception to the methods of strings above."""

    def call(self, context: Context, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(target, "__self__", None), getattr(target, "__name__", "")
        if isinstance(owner, str) and name in ("replace", "join"):
            return _replace(owner, *args, **kwargs) if name == "replace" else _join(args[0], owner)
        return super().call(context, target, *args, **kwargs)


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: The jinja2 source, from tokenizer_config.json or chat_template.jinja.
        tokens: `bos_token` and `eos_token`, as text.

    Raises:
        CheckpointError: The source is not a template that this sandbox runs.
    """

    def __init__(self, source: str, tokens: Mapping[str, str | None]) -> None:
        self._tokens = {name: text or "" for name, text in tokens.items()}
        try:
            self._template: Template = _Sandbox().from_string(source)
        except (TemplateError, RecursionError) as error:
            raise CheckpointError(f"the model's chat template cannot be used: {error}") from error

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt for `messages`, ending where the assistant's answer begins.

        Raises:
            ApiError: 400, when the template refuses the messages (or exceeds its limits); it says why.
        """
        _left.set(BASE_BUDGET + BUDGET_PER_CHARACTER * sum(len(str(message)) for message in messages))
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=True, **self._tokens)
        except (
            TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:
            raise ApiError(
                400, f"The model's chat template refuses these messages: {error}.", param="messages"
            ) from error
