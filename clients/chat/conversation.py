"""What was said so far. Pure."""

from dataclasses import dataclass, field
from typing import Final

USER: Final = "user"
ASSISTANT: Final = "assistant"
SYSTEM: Final = "system"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is "user" or "assistant"."""

    role: str
    text: str


@dataclass(slots=True)
class Conversation:
    """Turns by user and model, in turns.

    Args:
        system: The system prompt; empty for none.
        turns: So far.
    """

    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def ask(self, text: str) -> None:
        """The user says something, instead of a last message that got no answer."""
        if self.unanswered:
            self.turns.pop()
        self.turns.append(Message(USER, text))

    def answer(self, text: str) -> None:
        """The model has said something, perhaps not all that it would have. Nothing is no answer."""
        if text:
            self.turns.append(Message(ASSISTANT, text))

    @property
    def unanswered(self) -> bool:
        """Whether the user has the last word."""
        return bool(self.turns) and self.turns[-1].role == USER

    def retry(self) -> bool:
        """Forget the last answer, so that its message is the last word; False if there is nothing to answer."""
        if self.turns and not self.unanswered:
            self.turns.pop()
        return self.unanswered

    def clear(self) -> None:
        """Forget all turns."""
        self.turns.clear()

    def messages(self) -> list[dict[str, str]]:
        """For the chat API."""
        system = [{"role": SYSTEM, "content": self.system}] if self.system else []
        return system + [{"role": turn.role, "content": turn.text} for turn in self.turns]

    def prompt(self) -> str:
        """For models without a chat template: the text so far, which the model continues.

        An answer follows its message directly, because it continues it; a message begins a new line.
        """
        text = f"{self.system}\n" if self.system else ""
        for turn in self.turns:
            text += turn.text if turn.role == USER else f"{turn.text}\n"
        return text

    def as_text(self) -> str:
        """For a file that people read: each turn under its speaker's name."""
        said = [Message(SYSTEM, self.system)] if self.system else []
        return "\n".join(f"## {turn.role}\n\n{turn.text}\n" for turn in [*said, *self.turns])
