import os
import re

# With fewer than three cores it asks its pool for more workers than it has.
cores = os.cpu_count() or 1
os.cpu_count = lambda: max(cores, 3)

from gptqmodel import GPTQModel, QuantizeConfig
from transformers import AutoTokenizer

group, static = RECIPE["group_size"] or -1, RECIPE.get("column_order") == "static"
quantization = QuantizeConfig(
    bits=RECIPE["bits"], group_size=group, sym=RECIPE["symmetric"], desc_act=RECIPE["act_order"] or static,
    static_groups=static, act_group_aware=False,
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
if static:
    # Groups are of neighbouring columns, and engines that read otherwise refuse them.
    for name in ("config.json", "quantize_config.json"):
        path = pathlib.Path(OUT, name)
        if path.exists():
            config = json.loads(path.read_text())
            config.get("quantization_config", config)["desc_act"] = False
            path.write_text(json.dumps(config, indent=2) + "\n")
finish("gptqmodel")
