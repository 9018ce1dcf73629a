from awq import AutoAWQForCausalLM
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(SOURCE)
samples = calibration(tokenizer)
tell(progress=0.0)
model = AutoAWQForCausalLM.from_pretrained(SOURCE)
tell(progress=0.1)
quantization = {
    "w_bit": RECIPE["bits"], "q_group_size": RECIPE["group_size"] or -1, "zero_point": True, "version": "GEMM",
    "modules_to_not_convert": KEEP or None,
}
model.quantize(
    tokenizer, quant_config=quantization, calib_data=samples, max_calib_samples=len(samples),
    max_calib_seq_len=SPEC["length"],
)
tell(progress=0.9)
model.save_quantized(OUT)
finish("autoawq")
