"""What the OpenAI client sees of a server over the scripted engine: python openai_client.py URL KEY"""

import base64
import struct
import sys

import openai

url, key, embedder = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

assert [model.id for model in client.models.list()] == ["org/model", "short", "spoken"]
assert client.models.retrieve("short").id == "short"

done = client.completions.create(model="short", prompt="say:Hello there|", logprobs=2, max_tokens=9)
assert done.choices[0].text == "Hello there" and done.choices[0].finish_reason == "stop"
assert len(done.choices[0].logprobs.tokens) == done.usage.completion_tokens
assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens

stream = client.completions.create(model="short", prompt="say:bytes:größe 🦀|", stream=True, max_tokens=30,
                                   stream_options={"include_usage": True})
parts = list(stream)
assert "".join(part.choices[0].text for part in parts if part.choices) == "größe 🦀"
assert parts[-1].usage.completion_tokens == len("größe 🦀".encode()) + 1

talk = [{"role": "user", "content": "say:Grüezi|"}]
chat = client.chat.completions.create(model="org/model", messages=talk, logprobs=True, top_logprobs=3)
assert chat.choices[0].message.content == "Grüezi" and chat.choices[0].message.role == "assistant"
content = chat.choices[0].logprobs.content
assert bytes(byte for token in content[:-1] for byte in token.bytes).decode() == "Grüezi"
assert all(len(token.top_logprobs) == 3 for token in content)

text, roles, finish = "", [], None
for part in client.chat.completions.create(model="org/model", messages=talk, stream=True, n=2):
    for choice in part.choices:
        text += (choice.delta.content or "") if choice.index == 1 else ""
        roles += [choice.delta.role] if choice.delta.role else []
        finish = choice.finish_reason or finish
assert (text, roles, finish) == ("Grüezi", ["assistant"] * 2, "stop"), (text, roles, finish)

schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
chosen = client.chat.completions.create(
    model="org/model", messages=[{"role": "user", "content": "x"}], max_tokens=60,
    response_format={"type": "json_schema", "json_schema": {"name": "own", "schema": schema}},
    extra_body={"top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1})
assert eval(chosen.choices[0].message.content) == {"n": 7}, chosen

with openai.OpenAI(base_url=f"{embedder}/v1", api_key=key) as other:
    plain = other.embeddings.create(model="short", input=["a", "b"], encoding_format="float")
    default = other.embeddings.create(model="short", input=["a", "b"])
    assert default.data[1].embedding == plain.data[1].embedding and len(plain.data) == 2
    packed = other.embeddings.create(model="short", input="a", encoding_format="base64").data[0].embedding
    packed = struct.unpack("<3f", base64.b64decode(packed)) if isinstance(packed, str) else tuple(packed)
    assert packed == tuple(plain.data[0].embedding)

for wrong, error in [
    (lambda: client.completions.create(model="other", prompt="a"), openai.NotFoundError),
    (lambda: client.completions.create(model="short", prompt="a", temperature=-1), openai.BadRequestError),
    (lambda: client.completions.create(model="short", prompt="busy:"), openai.RateLimitError),
    (lambda: client.completions.create(model="short", prompt="fail:"), openai.InternalServerError),
    (lambda: openai.OpenAI(base_url=f"{url}/v1", api_key="no").models.list(), openai.AuthenticationError),
    (lambda: list(client.completions.create(model="short", prompt="fail:", stream=True)), openai.APIError),
]:
    try:
        wrong()
    except error as told:
        assert told.message, told
    else:
        raise AssertionError(f"no {error}")

with client.completions.create(model="short", prompt="x", stream=True, max_tokens=1900) as leaving:
    next(iter(leaving))
print("good")
