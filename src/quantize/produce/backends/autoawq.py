import re

from transformers import AutoConfig, AutoTokenizer

# It knows layers by their names within a block alone.
within = sorted({re.sub(r"^.*?\.\d+\.", "", layer) for layer in KEEP})
if len(KEEP) != len(within) * AutoConfig.from_pretrained(SOURCE).num_hidden_layers:
    sys.exit(f"autoawq leaves a layer out of every block or of none, and --skip names {', '.join(KEEP)}; name it in all blocks")

from awq import AutoAWQForCausalLM

tokenizer = AutoTokenizer.from_pretrained(SOURCE)
samples = calibration(tokenizer)
tell(progress=0.0)
model = AutoAWQForCausalLM.from_pretrained(SOURCE)
tell(progress=0.1)
quantization = {
    "w_bit": RECIPE["bits"], "q_group_size": RECIPE["group_size"] or -1, "zero_point": True, "version": "GEMM",
    "modules_to_not_convert": within or None,
}
try:
    model.quantize(
        tokenizer, quant_config=quantization, calib_data=samples, max_calib_samples=len(samples),
        max_calib_seq_len=SPEC["length"],
    )
except KeyError as missing:
    if missing.args[0] not in within:
        raise
    sys.exit(f"autoawq cannot leave out {missing.args[0]}: it takes the inputs of the layers beside it from it; leave it in, or take another backend")
tell(progress=0.9)
model.save_quantized(OUT)
finish("autoawq")
