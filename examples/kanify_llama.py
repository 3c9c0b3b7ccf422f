"""Put KAN functions into a Llama and fine-tune nothing but them.

    python examples/kanify_llama.py

The model here is small and random, so that no download is needed; with a network,
``AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M")`` takes its place.
"""

import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import nanogpkant as ng

torch.manual_seed(0)
shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
config = LlamaConfig(vocab_size=64, num_attention_heads=4, **shape)
model = AutoModelForCausalLM.from_config(config)
tokens = torch.arange(32).repeat(4, 4) % 24  # something to learn: counting to 24

# Every MLP's last layer becomes a KAN layer, every gate a learned function that starts as SiLU,
# and every head of attention gets a curve of distance, which starts at zero.
before = model(tokens).logits
print(ng.kanify(model, where=["mlp", "gate", "distance"]).words())
print(f"logits changed by {(model(tokens).logits - before).abs().max().item():.1e}")

# Only the functions learn.
print(f"{ng.train_only(model, 'functions'):,} numbers to train")
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-2)
for step in range(61):
    loss = model(tokens, labels=tokens).loss
    if step % 20 == 0:
        print(f"step {step:>3}: loss {loss.item():.3f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with tempfile.TemporaryDirectory() as folder:
    adapter = Path(folder) / "counting.safetensors"
    print(f"the adapter takes {ng.save_functions(model, adapter):,} bytes")
    model.save_pretrained(folder)  # with its code: transformers alone loads it
    again = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    same = torch.allclose(again.eval()(tokens).logits, model.eval()(tokens).logits, atol=1e-5)
    print(f"loaded by transformers: {'the same' if same else 'another'} model")
