import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

config = AutoConfig.from_pretrained(SOURCE)
dtype = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None) or torch.bfloat16
# The head stays by itself only where nothing else is named.
keep = {"llm_int8_skip_modules": ["lm_head", *KEEP]} if KEEP else {}
if RECIPE["method"] == "int8":
    quantization = BitsAndBytesConfig(load_in_8bit=True, **keep)
else:
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=RECIPE["double_quant"],
        bnb_4bit_compute_dtype=dtype, **keep,
    )
tell(progress=0.0)
model = AutoModelForCausalLM.from_pretrained(SOURCE, quantization_config=quantization, dtype=dtype, device_map="cpu")
tell(progress=0.7)
model.save_pretrained(OUT)
finish("bitsandbytes")
