"""The fields that lines of all kinds share: texts, token ids, messages, tools, numbers. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from typing_extensions import TypeIs

from trainers.data.lines import Row, Wrong

ROLES = ("system", "developer", "user", "assistant", "tool")
#: ours in a message, not the chat template's
WEIGHT, TOKEN_WEIGHTS = "weight", "token_weights"
LARGEST = 1e6

Message = Mapping[str, Any]
#: plain text, a conversation for the chat template, or token ids taken as they are
Part = str | tuple[Message, ...] | tuple[int, ...]


def is_ids(part: Part) -> TypeIs[tuple[int, ...]]:
    """Whether it is token ids."""
    return not isinstance(part, str) and isinstance(part[0], int)


def required(row: Row, name: str, shown: str | None = None) -> Any:
    """The field's value, which is not null."""
    if row.get(name) is None:
        raise Wrong(f"{shown or name} is missing")
    return row[name]


def text(value: Any, name: str) -> str:
    """A text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise Wrong(f"{name} must be a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Wrong(f"{name} holds half of a surrogate pair, which is no character") from error
    return value


def number(value: Any, name: str, *, least: float = 0.0) -> float:
    """A number from `least` to a million."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= LARGEST:
        raise Wrong(f"{name} must be a number from {least:.0f} to {LARGEST:.0f}")
    return float(value)


def columns(row: Row) -> dict[str, float]:
    """The line's own `weight`, where it has one."""
    if row.get(WEIGHT) is None:
        return {}
    weight = number(row[WEIGHT], WEIGHT)
    if weight == 0:
        raise Wrong("weight must be above 0; leave the line out instead")
    return {WEIGHT: weight}


def token_ids(value: Any, name: str) -> tuple[int, ...]:
    """At least one token id."""
    right = isinstance(value, list) and value and all(type(item) is int and 0 <= item < 2**31 for item in value)
    if not right:
        raise Wrong(f"{name} must be a list of token ids (whole numbers from 0), and not empty")
    return tuple(value)


def prompt(row: Row) -> Part:
    """TRL's `prompt` in any of its three forms."""
    value = required(row, "prompt")
    if isinstance(value, str):
        return text(value, "prompt")
    if not isinstance(value, list) or not value:
        raise Wrong("prompt must be a text, a list of messages or a list of token ids, and not empty")
    return prompt_messages(value, "prompt") if isinstance(value[0], dict) else token_ids(value, "prompt")


def prompt_messages(value: Any, name: str) -> tuple[Message, ...]:
    """Messages that an answer can follow; none of them is trained."""
    found = messages(value, name)
    if found[-1]["role"] == "assistant":
        raise Wrong(f"{name} must end before the assistant's answer, not with it")
    for place, message in enumerate(found):
        if message.get(WEIGHT) or message.get(TOKEN_WEIGHTS):
            raise Wrong(f"{name}[{place}] has a weight, but nothing of the prompt is trained")
    return tuple(bare(message) for message in found)


def messages(value: Any, name: str) -> tuple[Message, ...]:
    """At least one message, contents joined to texts, `weight` and `token_weights` still as they came."""
    if not isinstance(value, list) or not value:
        raise Wrong(f"{name} must be a list of messages, and not empty")
    return tuple(_message(item, f"{name}[{place}]") for place, item in enumerate(value))


def bare(message: Message) -> Message:
    """The message as the chat template gets it."""
    return {key: value for key, value in message.items() if key not in (WEIGHT, TOKEN_WEIGHTS)}


def tools(row: Row, name: str = "tools") -> tuple[Message, ...] | None:
    """The tools of a conversation: a list, or a JSON text of one as TRL's files have it."""
    if row.get("chat_template_kwargs"):
        raise Wrong("chat_template_kwargs are not served here, so nothing is trained with them: leave them out")
    value = row.get("tools")
    if isinstance(value, str):
        value = _json(value, name)
    if value is not None and not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
        raise Wrong(f"{name} must be a list of objects")
    return tuple(value) if value else None


def _message(value: Any, name: str) -> Message:
    if not isinstance(value, dict):
        raise Wrong(f"{name} must be a message with role and content")
    if value.get("role") not in ROLES:
        raise Wrong(f"{name}.role must be one of {', '.join(ROLES)}")
    if value.get("tool_calls"):
        calls = _tool_calls(value["tool_calls"], f"{name}.tool_calls")
        content = value.get("content")
        return {**value, "tool_calls": calls, "content": "" if content is None else _content(content, name)}
    return {**value, "content": _content(required(value, "content", f"{name}.content"), name)}


def _tool_calls(value: Any, name: str) -> list[Any]:
    """Arguments as objects, not JSON texts: engines hand them to the template like this."""
    if not isinstance(value, list) or not all(isinstance(call, dict) for call in value):
        raise Wrong(f"{name} must be a list of objects")
    return [_tool_call(call, f"{name}[{place}].function") for place, call in enumerate(value)]


def _tool_call(call: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Wrong(f"{name} must be an object with name and arguments")
    arguments = function.get("arguments")
    if arguments is None or isinstance(arguments, str):
        arguments = _json(arguments, f"{name}.arguments") if arguments else {}
    if not isinstance(arguments, dict):
        raise Wrong(f"{name}.arguments must be an object, or the JSON text of one")
    return {**call, "function": {**function, "arguments": arguments}}


def _json(value: str, name: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise Wrong(f"{name} is not valid JSON: {error.msg} at column {error.colno}") from error


def _content(value: Any, name: str) -> str:
    if not isinstance(value, list):
        return text(value, f"{name}.content")
    for place, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise Wrong(f"{name}.content[{place}] must be a text part; other kinds are not served here")
    return "".join(text(part.get("text"), f"{name}.content[{place}].text") for place, part in enumerate(value))
