"""What a chat does with what was typed: messages get answers, commands are carried out. Knows no terminal."""

from collections.abc import Callable
from typing import Final

from flexquant.clients.chat import slash
from flexquant.clients.chat.answering import Answered, Answering
from flexquant.clients.chat.conversation import Conversation
from flexquant.clients.chat.new_file import write_new
from flexquant.clients.client import Client
from flexquant.clients.command import place_in_words
from flexquant.clients.errors import ClientError
from flexquant.clients.printable import one_line, printable
from flexquant.clients.sizes import format_size

FULL: Final = "context_length_exceeded"
"""The daemon's word for a conversation that has become too long."""


class Session:
    """One chat.

    Args:
        client: Of the daemon.
        answering: Gets answers.
        conversation: What was said so far.
        show: Is given text of the answer, as it comes.
        note: Is given lines about the chat, which are no part of it.
    """

    def __init__(
        self,
        client: Client,
        answering: Answering,
        conversation: Conversation,
        show: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self._client = client
        self._answering = answering
        self._conversation = conversation
        self._show = show
        self._note = note
        self._last: Answered | None = None

    def take(self, line: str) -> bool:
        """Do what was typed; False if that was to leave. What goes wrong is told, and the chat goes on."""
        command = slash.parse(line)
        try:
            match command:
                case slash.Quit():
                    return False
                case slash.Say(text):
                    self._conversation.ask(text)
                    self._answer()
                case slash.Retry():
                    if self._conversation.retry():
                        self._answer()
                    else:
                        self._note("there is nothing to answer yet")
                case None:
                    pass
                case _:
                    self._note(self._carried_out(command))
        except ClientError as error:
            self._note(f"{one_line(error.message)}{f' ({error.hint})' if error.hint else ''}")
            if getattr(error, "code", None) == FULL:
                self._note("/clear makes room")
        return True

    def _answer(self) -> None:
        found = self._last = self._answering.answer(self._conversation, lambda text: self._show(printable(text)))
        self._conversation.answer(found.text)
        if not found.text.endswith("\n"):
            self._show("\n")
        if found.stopped:
            self._note("stopped; /retry answers anew" if found.text else "stopped before it began; /retry answers")
        elif found.finish_reason == "length":
            self._note("cut off: it reached its most tokens, or the end of the context")

    def _carried_out(self, command: slash.Command) -> str:
        """Carry out a command that needs no answer of the model, and say what came of it."""
        match command:
            case slash.System(text):
                return self._system(text)
            case slash.Pin(position):
                state = self._client.set_target(position=position)
                return f"position {place_in_words(state)}, {format_size(state.footprint_bytes)}"
            case slash.Auto():
                return f"position {place_in_words(self._client.set_target(mode='auto'))}"
            case slash.Stats():
                return self._stats()
            case slash.Clear():
                self._conversation.clear()
                return "forgotten"
            case slash.Save(path):
                try:
                    write_new(path, self._conversation.as_text())
                except OSError as error:
                    return f"{path}: not written: {error.strerror}"
                return f"written to {path}"
            case slash.Mistake(why):
                return one_line(why)
        return slash.HELP

    def _system(self, text: str | None) -> str:
        if text is not None:
            self._conversation.system = text
        system = self._conversation.system
        return f"system prompt: {one_line(system)}" if system else "no system prompt"

    def _stats(self) -> str:
        state = self._client.elastic()
        low, up = state.footprint_range_bytes
        place = (
            f"now: position {place_in_words(state)}, {format_size(state.footprint_bytes)} of weights "
            f"({format_size(low)} to {format_size(up)}), KL {state.quality.kl:.5f}"
        )
        last = self._last
        if last is None:
            return place
        first = "" if last.first_s is None else f", first text after {last.first_s:.2f} s"
        if last.usage is None:
            return f"last answer: stopped after {last.all_s:.2f} s{first}\n{place}"
        usage, speed = last.usage, last.tokens_per_second
        rate = "" if speed is None else f": {speed:.1f} tokens/s, prompt included"
        return (
            f"last answer: {usage.completion_tokens} tokens in {last.all_s:.2f} s{rate}{first}\n"
            f"positions {usage.position_start} to {usage.position_end}, worst {usage.position_worst}\n{place}"
        )
