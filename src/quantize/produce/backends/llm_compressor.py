import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

if not torch.cuda.is_available():
    # Memory is pinned for a GPU that is not there.
    torch.Tensor.pin_memory = lambda self, *_: self
method = RECIPE["method"]
tokenizer = AutoTokenizer.from_pretrained(SOURCE)
model = AutoModelForCausalLM.from_pretrained(SOURCE, dtype="auto", device_map="cpu")
tell(progress=0.1)
options = {"ignore": ["lm_head", *KEEP]}
if method == "fp8":
    recipe = QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", **options)
else:
    group = RECIPE["group_size"]
    weights = QuantizationArgs(
        num_bits=RECIPE["bits"], type="int", symmetric=RECIPE["symmetric"], group_size=group,
        strategy="group" if group else "channel",
    )
    options["config_groups"] = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
    if method == "gptq":
        recipe = GPTQModifier(actorder="static" if RECIPE.get("column_order") == "static" else None, **options)
    elif method == "awq":
        from llmcompressor.modifiers.awq import AWQModifier

        recipe = AWQModifier(**options)
    else:
        recipe = QuantizationModifier(**options)
if SPEC["calibration"]:
    samples = calibration(tokenizer)
    rows = {"input_ids": samples, "attention_mask": [[1] * len(tokens) for tokens in samples]}
    oneshot(
        model=model, recipe=recipe, dataset=Dataset.from_dict(rows), max_seq_length=SPEC["length"],
        num_calibration_samples=len(samples),
    )
else:
    oneshot(model=model, recipe=recipe)
tell(progress=0.9)
model.save_pretrained(OUT, save_compressed=True)
finish("llmcompressor")
