"""Records what transformers' apply_chat_template makes of every template here and every conversation below.

Run with transformers 5.24.0 and jinja2 3.1.6: python3 tests/serve/templates/record.py
"""

import datetime
import json
import pathlib

import jinja2
import transformers
from tokenizers import Tokenizer, models
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2026, 2, 5, 7, 8, 9)
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather at a place",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "Zürich, \"Bern\" & <others>"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "array", "items": {"type": "integer"}},
        "limit": {"type": "number", "default": 1e-7}}, "required": ["place"]}}}
CALL = {"id": "abcdef123", "type": "function", "function": {
    "name": "get_weather", "arguments": {"place": "Zürich", "days": [1, 2.5, None, True]}}}
TURNS = [{"role": "user", "content": "  Hi there \n"}, {"role": "assistant", "content": " Hello! 'q' \"d\" <b> "},
         {"role": "user", "content": "Größe 🦀?"}]
SYSTEM = {"role": "system", "content": "You are terse.\nVery."}
TOOL_TURNS = [{"role": "user", "content": "Weather?"},
              {"role": "assistant", "content": None, "reasoning_content": "I look it up.", "tool_calls": [CALL]},
              {"role": "tool", "tool_call_id": "abcdef123", "name": "get_weather", "content": "{\"sky\": \"clear\"}"}]
CASES = {
    "one": {"messages": TURNS[:1], "add_generation_prompt": True},
    "turns": {"messages": TURNS, "add_generation_prompt": True},
    "system": {"messages": [SYSTEM, *TURNS], "add_generation_prompt": True},
    "closed": {"messages": TURNS[:2], "add_generation_prompt": False},
    "continued": {"messages": [TURNS[0], {"role": "assistant", "content": "Hello, I "}], "continue_final_message": True},
    "tools": {"messages": TURNS, "tools": [WEATHER], "add_generation_prompt": True},
    "called": {"messages": [SYSTEM, *TOOL_TURNS], "tools": [WEATHER], "add_generation_prompt": True},
    "answered": {"messages": [*TOOL_TURNS, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nClear."}, TURNS[0]],
                 "tools": [WEATHER], "add_generation_prompt": True},
    "quiet": {"messages": TURNS, "add_generation_prompt": True,
              "extra": {"enable_thinking": False, "reasoning_effort": "high", "tools_in_user_message": False}},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "text", "text": "b"}]}],
              "add_generation_prompt": True},
    "documents": {"messages": TURNS[:1], "add_generation_prompt": True,
                  "documents": [{"title": "One", "text": "line\nline"}, {"title": "Two", "text": ""}]},
    "unordered": {"messages": [TURNS[0], TURNS[0]], "add_generation_prompt": True},
    "empty": {"messages": [], "add_generation_prompt": True},
}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def main() -> None:
    assert transformers.__version__ == "5.24.0" and jinja2.__version__ == "3.1.6"
    chat_template_utils.datetime = Clock
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    rendered = {}
    for file in sorted(HERE.glob("*.jinja")):
        own = rendered[file.stem] = {}
        for name, case in CASES.items():
            given = {key: value for key, value in case.items() if key not in ("messages", "extra")}
            try:
                own[name] = {"text": tokenizer.apply_chat_template(
                    case["messages"], chat_template=file.read_text(), tokenize=False, **given, **case.get("extra", {}))}
            except Exception as error:
                own[name] = {"error": f"{type(error).__name__}: {error}".split("\n")[0][:200]}
    out = {"transformers": transformers.__version__, "unix": int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp()),
           "special": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, "cases": CASES, "rendered": rendered}
    (HERE / "recorded.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")


main()
