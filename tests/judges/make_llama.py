"""A tiny Llama with a tokenizer, as transformers itself saves them.

usage: make_llama.py FOLDER
"""

import pathlib
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder = pathlib.Path(sys.argv[1])
torch.manual_seed(7)
config = LlamaConfig(
    vocab_size=320, hidden_size=256, intermediate_size=1024, num_hidden_layers=8,
    num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=False,
)
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="12MB")
tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=320, special_tokens=["<unk>", "<s>", "</s>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
)
tokenizer.train_from_iterator(["the weights of a model, chunk by chunk"] * 50, trainer)
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
fast.save_pretrained(folder)
(folder / "1_Pooling").mkdir()
(folder / "1_Pooling/config.json").write_text("{}")
