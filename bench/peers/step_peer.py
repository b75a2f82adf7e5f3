#!/usr/bin/env python3
"""The training step in PyTorch eager (or torch.compile), to stand beside Tessera's.

  step_peer.py FOLDER --check            compute the step that step_bench --export wrote to FOLDER, compare, and fail
                                         where a loss is off by more than 1e-3 or a gradient norm by more than 1e-2
  step_peer.py FOLDER --serve [--compile]  measure on demand: read "run STEPS", "parts STEPS", "limit SECONDS" or "quit"
                                         from standard input, answer with a line of JSON
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from served import cpu_seconds, peak_mib, product_rate
from step_model import (Queue, Stage1Model, masked_mean, maxsim_scores, mean_cross_entropy, next_token_loss, peer_name,
                        pooled_image, softplus_loss, unit_length)

LOSS_TOLERANCE = 1e-3
NORM_TOLERANCE = 1e-2


class Parts:
    """Which autograd nodes each part of the forward pass made, and its own time. Off: does nothing."""

    def __init__(self):
        self.on = False
        self.clear()

    def clear(self):
        self.forward, self.intervals = {}, []

    @contextlib.contextmanager
    def __call__(self, name):
        if not self.on:
            yield
            return
        first, start = torch._C._autograd._get_sequence_nr(), time.perf_counter()
        yield
        self.forward[name] = self.forward.get(name, 0.0) + time.perf_counter() - start
        self.intervals.append((first, torch._C._autograd._get_sequence_nr(), name))

    def owner(self, number):
        return next((name for first, end, name in self.intervals if first <= number < end), "(rest)")


class Step:
    def __init__(self, folder, compiled=False):
        self.config = yaml.safe_load((folder / "config.yaml").read_text())
        self.expected = json.loads((folder / "expected.json").read_text())
        self.batches = [load_file(path) for path in sorted(folder.glob("batch-*.safetensors"))]
        self.model = Stage1Model(self.config)
        self.model.load_tessera(load_file(folder / "weights.safetensors"))
        self.model.train()
        queue = folder / "queue.safetensors"
        self.queue = Queue(load_file(queue)) if queue.exists() else None
        self.parts = Parts()
        self.optimizer = self.make_optimizer()
        if not any(p.requires_grad for p in self.model.vision.parameters()):
            self.model.vision.eval()
        self.losses_of = torch.compile(self.losses) if compiled else self.losses
        self.bfloat16 = self.config["run"]["precision"] == "bf16"
        self.next = 0

    def make_optimizer(self):
        parameters = dict(self.model.named_parameters())
        lora = hasattr(self.model.vision, "peft_config")
        self.groups = {}
        groups = []
        for group in self.expected["groups"]:
            tensors = [parameters[peer_name(name, lora)] for name in group["parameters"]]
            self.groups.setdefault(group["name"], []).extend(tensors)
            groups.append({"params": tensors, "lr": group["learning_rate"], "weight_decay": group["weight_decay"]})
        self.trainable = [tensor for group in groups for tensor in group["params"]]
        self.model.requires_grad_(False)
        for tensor in self.trainable:
            tensor.requires_grad_(True)
        optimizer = self.config["optimizer"]
        return torch.optim.AdamW(groups, betas=(optimizer["beta1"], optimizer["beta2"]),
                                 eps=float(optimizer["eps"]), fused=True)

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16)

    # --- the losses, pass by pass -----------------------------------------------------------------------------------

    def losses(self, batch):
        """Every loss of the step by name, and the whole."""
        model, parts = self.model, self.parts
        ids, mask, image_ids = batch["input_ids"], batch["attention_mask"], batch["image_ids"]
        readable = mask[:, None, None, :]
        with self.autocast():
            with parts("encoder, image"):
                tokens = model.compress(batch["pixels"])
                states = model.image_states(tokens)
                image = unit_length(model.poolers.image_projection(pooled_image(states[-1])))
            with parts("text"):
                lower = model.lower_text(ids, readable)
                hidden = model.upper_text(lower, readable)
                text = unit_length(model.poolers.text_projection(masked_mean(hidden, mask)))
        result = {}
        same = image_ids[:, None] == image_ids
        with parts("itc"):
            temperature = model.itc_temperature()
            images, texts, positive, left_out = image, text, same, None
            if self.queue:
                images, texts = torch.cat([image, self.queue.image]), torch.cat([text, self.queue.text])
                in_queue = self.queue.left_out(image_ids)
                left_out = torch.cat([torch.zeros_like(same), in_queue], 1)
                positive = torch.cat([same, torch.zeros_like(in_queue)], 1)
            result["loss_itc"] = 0.5 * (mean_cross_entropy(image @ texts.T / temperature, positive, left_out) +
                                        mean_cross_entropy(text @ images.T / temperature, positive, left_out))
        with parts("maxsim"):
            with self.autocast():
                patches = unit_length(model.token_projections.image_projection(states[-1][:, 1:]))
                words = unit_length(model.token_projections.text_projection(hidden))
            rows, columns = maxsim_scores(patches, words, mask)
            inverse = 1 / model.maxsim_temperature()
            result["loss_maxsim"] = 0.5 * (
                mean_cross_entropy(rows * inverse, same) + mean_cross_entropy(columns.T * inverse, same))
        with parts("itm"):
            result["loss_itm"] = self.itm(batch, tokens, lower, image, text, same)
        with parts("caption"):
            result["loss_caption"] = self.caption(batch, states, hidden)
        with parts("memory"):
            result.update(self.memory(batch, states, hidden))
        result["loss"] = self.total(result)
        self.last = [tensor.detach() for tensor in (image, text, image_ids, tokens, ids)]
        return result

    def total(self, result):
        weights = self.config["losses"]
        memory = weights["memory"]
        total = sum(weights[name]["weight"] * result[f"loss_{name}"] for name in ("itc", "maxsim", "itm", "caption"))
        return total + memory["weight"] * (result["loss_memory"] + memory["alignment"] * result["memory_read_error"] +
                                           memory["kl"] * result["memory_address_kl"])

    def itm(self, batch, tokens, lower, image, text, same):
        size, mask = len(same), batch["attention_mask"]
        with torch.no_grad():
            images, texts, left_out = image, text, same
            if self.queue:
                images, texts = torch.cat([image, self.queue.image]), torch.cat([text, self.queue.text])
                left_out = torch.cat([same, self.queue.left_out(batch["image_ids"])], 1)
            temperature, uniform = self.model.itc_temperature(), self.config["losses"]["itm"]["uniform_share"]

            def draw(scores, noise):
                weights = scores.masked_fill(left_out, float("-inf")).softmax(1).masked_fill(left_out, 0)
                weights = (1 - uniform) * weights + uniform * ~left_out / (~left_out).sum(1, keepdim=True).clamp(min=1)
                return (weights.log() + noise).argmax(1), (weights > 0).any(1)

            negative_text, text_valid = draw(image @ texts.T / temperature, batch["text_noise"])
            negative_image, image_valid = draw(text @ images.T / temperature, batch["image_noise"])
        self.drawn = negative_text, negative_image
        with self.autocast():
            if self.queue:
                tokens, negative_tokens = self.queue.with_negative_images(tokens, negative_image)
                lower, negative_lower, mask, negative_mask = self.with_negative_texts(batch, lower, negative_text)
            else:
                negative_tokens = tokens[negative_image]
                negative_lower, negative_mask = lower[negative_text], mask[negative_text]
            logits = self.model.match_logits(torch.cat([tokens, negative_tokens, tokens]),
                                             torch.cat([lower, lower, negative_lower]),
                                             torch.cat([mask, mask, negative_mask]))
        counted = torch.cat([text_valid | image_valid, image_valid, text_valid])
        return softplus_loss(logits, size, counted)

    def with_negative_texts(self, batch, lower, index):
        """Own and negative texts, as long as the longest of them; the negatives are encoded with today's weights."""
        ids = self.queue.negative_ids(batch["input_ids"], index)
        length = max(lower.size(1), int((ids != 0).sum(1).max()))
        ids = ids[:, :length]
        mask = F.pad(batch["attention_mask"], (0, length - lower.size(1)))
        negative_lower = self.model.lower_text(ids, (ids != 0)[:, None, None, :])
        return F.pad(lower, (0, 0, 0, length - lower.size(1))), negative_lower, mask, ids != 0

    def codes(self, states, hidden, mask, has_image=None, has_text=None):
        text = None if hidden is None else masked_mean(hidden, mask)
        return self.model.pair_code(pooled_image(states[-1]), text, has_image, has_text)

    def episodes(self, codes):
        return codes.view(-1, self.config["memory"]["episode"], codes.size(-1))

    def caption(self, batch, states, hidden):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.no_grad():
            written = self.episodes(self.codes(states, hidden, mask))
            queries = self.episodes(self.codes(states, None, mask))
            image_ids = batch["image_ids"].view(written.shape[:2])
            read, _ = self.model.memory(written, queries, own=image_ids[:, :, None] == image_ids[:, None])
        with self.autocast():
            logits = self.model.caption_logits(ids, states, read.flatten(0, 1), batch["caption_sees_memory"])
        return next_token_loss(logits, ids, mask, batch["is_cut"])

    def memory(self, batch, states, hidden):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        codes = self.episodes(self.codes(states, hidden, mask))
        queries = self.episodes(
            self.codes(states, hidden, mask, batch["query_keeps_image"], batch["query_keeps_text"]))
        read, kl = self.model.memory(codes, queries)
        with self.autocast():
            logits = self.model.caption_logits(ids, memory=read.flatten(0, 1))
        return {"loss_memory": next_token_loss(logits, ids, mask, batch["is_cut"]),
                "memory_read_error": F.mse_loss(read, codes.detach()), "memory_address_kl": kl.mean()}

    # --- the step ---------------------------------------------------------------------------------------------------

    def run(self):
        batch = self.batches[self.next % len(self.batches)]
        self.next += 1
        times = [time.perf_counter()]
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.losses_of(batch)["loss"]
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(self.trainable, self.config["optimizer"]["clip_grad_norm"])
        self.optimizer.step()
        times.append(time.perf_counter())
        if self.queue:
            self.queue.enqueue(*self.last)
        times.append(time.perf_counter())
        return [end - start for start, end in zip(times, times[1:])]

    def run_many(self, steps):
        cpu = cpu_seconds()
        seconds = sum(sum(self.run()) for _ in range(steps))
        return {"steps": steps, "pairs": steps * len(self.batches[0]["image_ids"]), "seconds": seconds,
                "cpu_seconds": cpu_seconds() - cpu, "peak_mib": peak_mib()}

    def limit(self, seconds):
        """Pairs a second if the step were nothing but its matrix products, at the rate of a large one."""
        with FlopCounterMode(display=False) as counter:
            self.run()
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        rate = product_rate(torch, dtype, seconds)
        pairs = len(self.batches[0]["image_ids"])
        return {"pairs_per_second": pairs * rate / counter.get_total_flops(), "flop": counter.get_total_flops(),
                "flop_per_second": rate}

    def time_parts(self, steps):
        """Backward times come from the profiler, which makes everything slower: its shares are laid over the time of
        steps without it."""
        plain = [sum(times) / steps for times in zip(*(self.run() for _ in range(steps)))]
        forward, backward = {}, {}
        self.parts.on = True
        for _ in range(steps):
            self.parts.clear()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                self.run()
            for name, seconds in self.parts.forward.items():
                forward[name] = forward.get(name, 0.0) + seconds
            for event in profile.events():
                if event.name.startswith("autograd::engine::evaluate_function"):
                    name = self.parts.owner(event.sequence_nr) if event.sequence_nr >= 0 else "(gradients kept)"
                    backward[name] = backward.get(name, 0.0) + event.time_range.elapsed_us()
        self.parts.on = False
        forward_scale = 1e3 * plain[0] / sum(forward.values())
        backward_scale = 1e3 * plain[1] / sum(backward.values())
        rows = [{"part": name, "forward_ms": forward.get(name, 0.0) * forward_scale,
                 "backward_ms": backward.get(name, 0.0) * backward_scale} for name in [*forward, *(set(backward) - set(forward))]]
        return rows + [{"part": "optimizer", "forward_ms": 1e3 * plain[2], "backward_ms": 0.0},
                       {"part": "after update", "forward_ms": 1e3 * plain[3], "backward_ms": 0.0}]

    # --- the check --------------------------------------------------------------------------------------------------

    def check(self):
        """What differs, one line each."""
        self.bfloat16 = False
        self.model.memory.noise = 0.0
        for module in self.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        problems = []

        def compare(where, name, found, wanted, tolerance):
            if not abs(found - wanted) <= tolerance * max(abs(wanted), 1e-6):
                problems.append(f"{where}: {name}: expected {wanted:.6g}, found {found:.6g}")

        for number, (batch, expected) in enumerate(zip(self.batches, self.expected["batches"])):
            where = f"batch {number}"
            self.optimizer.zero_grad(set_to_none=True)
            losses = self.losses_of(batch)
            losses["loss"].backward()
            for name, wanted in expected["losses"].items():
                compare(where, name, losses[name].item(), wanted, LOSS_TOLERANCE)
            norms = {name: norm(tensors) for name, tensors in self.groups.items()}
            norms["total"] = norm(self.trainable)
            for name, wanted in expected["gradient_norms"].items():
                compare(where, f"gradient norm of {name}", norms[name], wanted, NORM_TOLERANCE)
            for name, found in zip(("negative_text", "negative_image"), self.drawn):
                if not torch.equal(found, batch[name]):
                    problems.append(f"{where}: {name}: others were drawn")
        return problems


def norm(tensors):
    gradients = [tensor.grad.double().norm() for tensor in tensors if tensor.grad is not None]
    return torch.stack(gradients).norm().item() if gradients else 0.0


def serve(step):
    for line in sys.stdin:
        command, _, steps = line.strip().partition(" ")
        if command == "quit":
            break
        actions = {"run": step.run_many, "parts": step.time_parts, "limit": step.limit}
        if command not in actions:
            raise SystemExit("step_peer: expected 'run STEPS', 'parts STEPS', 'limit SECONDS' or 'quit', found "
                             f"'{line.strip()}'")
        print(json.dumps(actions[command](int(steps))), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--compile", action="store_true", help="the losses through torch.compile")
    arguments = parser.parse_args()
    step = Step(arguments.folder, arguments.compile)
    if arguments.check:
        problems = step.check()
        for problem in problems:
            print(f"step_peer: {problem}", file=sys.stderr)
        if problems:
            return 1
        print(f"{len(step.batches)} batches: every loss within {LOSS_TOLERANCE}, gradient norms within "
              f"{NORM_TOLERANCE}, the same negatives")
    if arguments.serve:
        serve(step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
