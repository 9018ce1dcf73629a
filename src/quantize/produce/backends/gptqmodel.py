import os
import re

# With fewer than three cores it asks its pool for more workers than it has.
cores = os.cpu_count() or 1
os.cpu_count = lambda: max(cores, 3)

from gptqmodel import GPTQModel, QuantizeConfig
from transformers import AutoTokenizer

group = RECIPE["group_size"] or -1
quantization = QuantizeConfig(
    bits=RECIPE["bits"], group_size=group, sym=RECIPE["symmetric"], desc_act=RECIPE["act_order"],
    dynamic={f"-:^{re.escape(layer)}$": {} for layer in KEEP} or None,
)
tokenizer = AutoTokenizer.from_pretrained(SOURCE)
samples = [{"input_ids": tokens, "attention_mask": [1] * len(tokens)} for tokens in calibration(tokenizer)]
tell(progress=0.0)
model = GPTQModel.load(SOURCE, quantization)
tell(progress=0.1)
model.quantize(samples, batch_size=1)
tell(progress=0.9)
model.save(OUT)
finish("gptqmodel")
