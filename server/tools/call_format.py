"""What the files of call formats have in common: the marks that a model puts around its calls."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How a model writes calls: `opening first CALL (between CALL)* last`, with white space anywhere between.

    A call is a JSON object: {"name": ..., `arguments`: {...}}.

    Args:
        name: Of the format, for people.
        opening: Begins the calls. It may be a special token of the model.
        first: A character between the opening and the first call, or nothing.
        between: A character between two calls, or nothing where each call has marks of its own.
        last: Ends the calls, or nothing.
        arguments: The key of the arguments.
        bare: An answer that begins with a call needs no opening.
        id_prefix: Ids of calls begin with it.
        id_length: Random characters after that.
    """

    name: str
    opening: str
    first: str = ""
    between: str = ""
    last: str = ""
    arguments: str = "arguments"
    bare: bool = False
    id_prefix: str = "call_"
    id_length: int = 24

    @property
    def before_call(self) -> str:
        """What a model writes before its first call: the opening, if an answer needs it."""
        return ("" if self.bare else self.opening) + self.first

    @property
    def of_forced_call(self) -> "CallFormat":
        """Of an answer whose prompt ends with `before_call`, and which a grammar holds to one call: that alone."""
        return replace(self, bare=True, first="", between="", last="")
