"""What the files of call formats have in common: the marks that a model puts around its calls."""

from dataclasses import dataclass


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
        """The text that a model writes before a call: the opening, if an answer needs it."""
        return ("" if self.bare else self.opening) + self.first

    @property
    def after_call(self) -> str:
        """The text that a model writes after its last call."""
        return self.last
