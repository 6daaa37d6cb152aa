"""The peer: Hugging Face Trainer with DeepSpeed on the job that our trainer gets, under torchrun.

Same weights' shapes, token windows, batch, ZeRO stage and buckets, optimizer and clipping. Rank 0 writes
the monotonic time at which each step ended. The compile traps of DeepSpeed on a CPU are switched off here
too, or the peer would be measured compiling.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Windows(torch.utils.data.Dataset):
    """Fixed windows of the token file; labels are the inputs, shifted inside the model."""

    def __init__(self, job: dict) -> None:
        raw = torch.frombuffer(
            bytearray(Path(job["data"]["file"]).read_bytes()), dtype=getattr(torch, job["data"]["dtype"])
        )
        self.length = job["batch"]["sequence_length"]
        self.tokens = raw.to(torch.long)

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index: int) -> dict:
        window = self.tokens[index * self.length : (index + 1) * self.length]
        return {"input_ids": window, "labels": window}


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.ends_s: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, args, state, control, **_):
        self.ends_s.append(time.monotonic())

    def on_log(self, args, state, control, logs=None, **_):
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def ds_config(job: dict) -> dict:
    return {
        "train_micro_batch_size_per_gpu": job["batch"]["micro_batch_size"],
        "gradient_accumulation_steps": job["batch"]["gradient_accumulation_steps"],
        "gradient_clipping": job["optimizer"]["gradient_clipping"],
        "zero_optimization": job["zero"],
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": job["precision"]["compute_dtype"] == "bf16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    out = Path(sys.argv[2])
    model, optimizer, batch = job["model"], job["optimizer"], job["batch"]
    torch.manual_seed(job["seed"])
    if job["engine"] == "deepspeed":
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    clock = Clock()
    arguments = TrainingArguments(
        output_dir=str(out / "hf"),
        deepspeed=ds_config(job) if job["engine"] == "deepspeed" else None,
        ddp_backend=job["device"]["backend"],
        use_cpu=job["device"]["type"] == "cpu",
        per_device_train_batch_size=batch["micro_batch_size"],
        gradient_accumulation_steps=batch["gradient_accumulation_steps"],
        max_steps=job["steps"]["warmup_steps"] + job["steps"]["measured_steps"],
        learning_rate=optimizer["learning_rate"],
        weight_decay=optimizer["weight_decay"],
        adam_beta1=optimizer["beta1"],
        adam_beta2=optimizer["beta2"],
        adam_epsilon=optimizer["eps"],
        max_grad_norm=optimizer["gradient_clipping"],
        optim="adamw_torch",
        lr_scheduler_type="constant",
        bf16=job["precision"]["compute_dtype"] == "bf16",
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        seed=job["seed"],
    )
    config = LlamaConfig(
        hidden_size=model["hidden_size"],
        num_hidden_layers=model["num_layers"],
        num_attention_heads=model["num_heads"],
        num_key_value_heads=model["num_kv_heads"],
        intermediate_size=model["ffn_hidden_size"],
        vocab_size=model["vocab_size"],
        max_position_embeddings=batch["sequence_length"],
        rms_norm_eps=model["norm_eps"],
        use_cache=False,
        tie_word_embeddings=model["tie_embeddings"],
        attn_implementation="sdpa",
        initializer_range=model["init_std"],
        bos_token_id=None,
        eos_token_id=None,
    )
    trainer = Trainer(
        model=LlamaForCausalLM(config), args=arguments, train_dataset=Windows(job), callbacks=[clock]
    )
    trainer.train()
    if os.environ["RANK"] == "0":
        (out / "peer.json").write_text(json.dumps({"ends_s": clock.ends_s, "losses": clock.losses}))


if __name__ == "__main__":
    main()
