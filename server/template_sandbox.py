"""Where chat templates run: jinja2's immutable sandbox, within a budget of work.

Templates come with downloaded models, so none is trusted:

- every turn of a loop and every call of a macro or a block pays for the fixed text in it;
- every value that is put out pays for its size, whether it goes into the prompt or into a `{% set %}` block;
- operators, filters and methods pay for what they read, and for what they build before it is built;
- comparisons and hashes, also within filters and tests, pay for all that they may have to look at.

Filters and methods of strings are those that chat templates use; any other is an error that names it. They do what they
do in transformers.
"""

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import wraps
from itertools import chain
from typing import Any, Final, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from flexquant.server.template_budget import length, look, pay, weigh

_TURN: Final = 16
_FILTERS: Final = (
    "abs count d default first float int items last length list map reject rejectattr reverse select selectattr"
)
_DEEP_FILTERS: Final = "capitalize dictsort lower max min safe sort string title unique upper"
"""They compare or spell out what is within their values."""
_DEEP_TESTS: Final = "!= < <= == > >= eq equalto filter ge greaterthan gt in le lessthan lower lt ne test upper"
_STRING_METHODS: Final = (
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace "
    "istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit "
    "rstrip split splitlines startswith strip swapcase title upper"
)
_MAX_FACTOR_BITS: Final = 4096
_MAX_MESSAGE: Final = 1000


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that compiles chat templates; what these do takes from the budget of the rendering."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    look = staticmethod(look)
    pay = staticmethod(pay)
    weigh = staticmethod(weigh)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=weigh)
        known: dict[str, Callable[..., Any]] = self.filters
        tests: dict[str, Any] = self.tests
        self.filters = {name: _paying(known[name], look) for name in _FILTERS.split()}
        self.filters |= {name: _paying(known[name], weigh) for name in _DEEP_FILTERS.split()}
        self.filters |= {"join": _join, "replace": _replace, "round": _round, "sum": _sum}
        self.filters |= {"tojson": _tojson, "trim": _trim}
        self.tests = tests | {name: _paying(tests[name], weigh) for name in _DEEP_TESTS.split()}
        self.globals = {"dict": _dict, "namespace": self.globals["namespace"], "range": _range}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Metered().visit(super()._parse(source, name, filename))
        assert isinstance(tree, nodes.Template)
        tree.set_environment(self)
        return tree

    @staticmethod
    def keys(value: object) -> object:
        """Pay for finding something in `value`, and return it."""
        return value if isinstance(value, dict) else weigh(value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Do `+`, `*` or `%` if the budget allows it."""
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise TemplateError(f"{operator} is not supported here")
        if operator == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            pay(length(left) * max(right, 0) if isinstance(right, int) else length(right) * max(left, 0))
        elif operator == "*" and any(isinstance(x, int) and x.bit_length() > _MAX_FACTOR_BITS for x in (left, right)):
            raise TemplateError("it multiplies very large numbers")
        else:
            pay(length(left) + length(right))
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may read an attribute."""
        if isinstance(obj, str) and attr not in _STRING_METHODS.split():
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """`format` is no exception to the methods of strings above."""

    def call(self, context: Context, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what a template may call."""
        owner, name = getattr(target, "__self__", None), getattr(target, "__name__", "")
        if isinstance(owner, str):
            if name == "replace":
                # Within loops and blocks jinja2 adds what calls of its own functions need.
                return _replace(owner, *args, **{key: kwargs[key] for key in kwargs if not key.startswith("_")})
            if name == "join":
                return _join(args[0], owner)
            if name in ("strip", "lstrip", "rstrip"):
                _pay_for_trimming(owner, *args)
            look(owner)
        elif isinstance(owner, list | tuple):  # index, count
            weigh([owner, args])
        elif isinstance(owner, dict | LoopContext):  # get, changed
            pay(length(owner) if isinstance(owner, dict) else 0)
            weigh(args)
        return super().call(context, target, *args, **kwargs)


class _Generation(Extension):
    """`{% generation %}`, with which templates mark the assistant's turns for training, has no effect."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Metered(NodeTransformer):
    """Makes templates pay where no hook of the environment sees what they do.

    What is called there are attributes of the environment, which a template can neither name nor replace.
    """

    def _enter(self, node: nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block) -> nodes.Node:
        fixed = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("pay", nodes.Const(_TURN + fixed))).set_lineno(node.lineno))
        return node

    visit_Macro = visit_CallBlock = visit_Block = _enter  # noqa: N815  # names that NodeTransformer looks for, as all below

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        if node.recursive:
            raise TemplateSyntaxError("recursive loops are not supported", node.lineno)
        self._enter(node)
        assert isinstance(node.iter, nodes.Expr)
        node.iter = _call("look", node.iter)  # a loop's condition may leave all turns out
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "join", [], [], None, None, lineno=node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _call("weigh", node.expr)
        for operand in node.ops:
            operand.expr = _call("keys" if operand.op in ("in", "notin") else "weigh", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _call("look", node.node)
        elif not isinstance(node.arg, nodes.Const):
            node.arg = _call("weigh", node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _call("weigh", node.key)
        return node


def _call(name: str, value: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), [value], [], None, None, lineno=value.lineno)


def _paying(function: Callable[..., Any], charge: Callable[[object], object]) -> Callable[..., Any]:
    """`function`, a filter or a test of jinja2, that pays what `charge` takes for each of its values."""
    own = 1 if hasattr(function, "jinja_pass_arg") else 0  # the context or environment, before the values

    @wraps(function)
    def paying(*args: Any, **kwargs: Any) -> Any:
        for value in chain(args[own:], kwargs.values()):
            charge(value)
        return function(*args, **kwargs)

    return paying


def _replace(text: object, old: object, new: object, count: int | None = None) -> str:
    whole, before, after = str(weigh(text)), str(weigh(old)), str(weigh(new))
    pay(whole.count(before) * len(after))
    return whole.replace(before, after, -1 if count is None else count)


def _join(parts: Iterable[object], between: object = "") -> str:
    texts = [str(weigh(part)) for part in parts]
    separator = str(weigh(between))
    pay(len(separator) * len(texts))
    return separator.join(texts)


def _trim(text: object, chars: str | None = None) -> str:
    whole = str(weigh(text))
    _pay_for_trimming(whole, chars)
    return whole.strip(chars)


def _pay_for_trimming(text: str, chars: object = None) -> None:
    """Every character may be looked for in all of `chars`."""
    pay(len(text) * (len(chars) if isinstance(chars, str) else 1))


def _sum(numbers: Iterable[float]) -> float:
    total: float = 0
    for number in numbers:
        look(number)
        total += number
    return total


def _round(number: float, precision: int = 0) -> float:
    if not 0 <= precision <= 20:
        raise TemplateError("round's precision must be 0 to 20")
    return round(number, precision)


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    pay(len(numbers))
    return numbers


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*(weigh(value) for value in args), **kwargs)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As Hugging Face defines it: not escaped for HTML, letters of all scripts as they are."""
    weigh(value)
    if indent is not None and not 0 <= indent <= 8:
        raise TemplateError("tojson's indent must be 0 to 8")
    if separators is not None and max(map(len, separators)) > 8:
        raise TemplateError("tojson's separators must be short")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(weigh(message))[:_MAX_MESSAGE])


def _strftime_now(form: str) -> str:
    look(form)
    return datetime.now().astimezone().strftime(form)
