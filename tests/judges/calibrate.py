"""One calibrated quantization by another tool, run by the Python that has it.

    python tests/judges/calibrate.py gptqmodel|gptqmodel-static|llmcompressor-gptq|llmcompressor-awq JOB

JOB is a JSON file: model and out (folders), runs (lists of tokens of equal length), bits, group, sym, and
dtype, the type that the model is loaded in. The last line of the output is one JSON object: seconds of
loading, quantizing and saving, and the CPU seconds of quantizing.
"""
import json
import os
import pathlib
import resource
import sys
import time


def gptqmodel(**order):
    def quantize(job, timed):
        # With fewer than three cores it asks its pool for more workers than it has.
        cores = os.cpu_count() or 1
        os.cpu_count = lambda: max(cores, 3)
        import torch
        from gptqmodel import GPTQModel, QuantizeConfig

        config = QuantizeConfig(bits=job["bits"], group_size=job["group"], sym=job["sym"], **order)
        with timed("loading"):
            loaded = GPTQModel.load(job["model"], config, device="cpu", dtype=getattr(torch, job["dtype"]))
        with timed("quantizing"):
            rows = [{"input_ids": run, "attention_mask": [1] * len(run)} for run in job["runs"]]
            loaded.quantize(rows, batch_size=job.get("batch", 1))
        with timed("saving"):
            loaded.save(job["out"])

    return quantize


def llmcompressor(method):
    def quantize(job, timed):
        import torch
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
        from datasets import Dataset
        from llmcompressor import oneshot
        from transformers import AutoModelForCausalLM

        # Memory is pinned for a GPU that is not there.
        torch.Tensor.pin_memory = lambda self, *_: self
        weights = QuantizationArgs(
            num_bits=job["bits"], type="int", symmetric=job["sym"], strategy="group", group_size=job["group"],
        )
        scheme = QuantizationScheme(targets=["Linear"], weights=weights)
        arguments = dict(config_groups={"group_0": scheme}, ignore=["lm_head"])
        if method == "gptq":
            from llmcompressor.modifiers.gptq import GPTQModifier

            recipe = GPTQModifier(**arguments)
        else:
            from llmcompressor.modifiers.awq import AWQModifier

            recipe = AWQModifier(**arguments)
        with timed("loading"):
            loaded = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"]))
            rows = [{"input_ids": run, "attention_mask": [1] * len(run)} for run in job["runs"]]
            data = Dataset.from_list(rows)
        with timed("quantizing"):
            oneshot(
                model=loaded, dataset=data, recipe=recipe, max_seq_length=len(job["runs"][0]),
                num_calibration_samples=len(job["runs"]), shuffle_calibration_samples=False,
                batch_size=job.get("batch", 1),
            )
        with timed("saving"):
            loaded.save_pretrained(job["out"], save_compressed=True)

    return quantize


TOOLS = {
    "gptqmodel": gptqmodel(), "gptqmodel-static": gptqmodel(desc_act=True, static_groups=True, act_group_aware=False),
    "llmcompressor-gptq": llmcompressor("gptq"), "llmcompressor-awq": llmcompressor("awq"),
}


class Timed:
    """Seconds and CPU seconds by what they were spent on."""

    def __init__(self):
        self.found = {}

    def __call__(self, what):
        self.what = what
        return self

    def __enter__(self):
        self.start = time.perf_counter(), self.cpu()

    def __exit__(self, *_):
        self.found[f"{self.what}_seconds"] = time.perf_counter() - self.start[0]
        self.found[f"{self.what}_cpu_seconds"] = self.cpu() - self.start[1]

    @staticmethod
    def cpu():
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    name, path = sys.argv[1:]
    job, timed = json.loads(pathlib.Path(path).read_text()), Timed()
    # Tools leave logs where they run.
    os.chdir(pathlib.Path(job["out"]).parent)
    TOOLS[name](job, timed)
    tokenizer = pathlib.Path(job["model"]) / "tokenizer.json"
    (pathlib.Path(job["out"]) / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    print()
    print(json.dumps(timed.found))
