"""For test_reference.py: one tuple step through the real sd-scripts function and our seams, its gradient to a file.

The loop below is the part of train_network.py that matters: accumulate, noise by the host, its loss, backward.
"""

import argparse
import json
import random
import sys
from operator import itemgetter
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from sga_kohya.config import SgaConfig
from sga_kohya.hosts.sd_scripts import loss, noise
from sga_kohya.hosts.sd_scripts.checkout import find_checkout
from sga_kohya.hosts.seam import install
from sga_kohya.reference.data import SliceDataset
from sga_kohya.reference.models import make_stack
from sga_kohya.reference.options import RunOptions
from sga_kohya.training.events import Run
from sga_kohya.training.session import Session
from sga_kohya.tuples.accelerator import TupleAccelerator

job = json.loads(sys.argv[1])
torch.set_num_threads(1)
config = SgaConfig(groups_per_step=5, path=job["path"])
session = Session(config, accelerator=TupleAccelerator())
checkout = find_checkout(job["checkout"])
session.started(Run("timestep_shift"))
install([noise.FLUX, loss.LOSS], session, checkout.package)

from library import flux_train_utils, sd3_train_utils, train_util  # noqa: E402  # the checkout is on the path only now

scheduler = sd3_train_utils.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
arguments = argparse.Namespace(timestep_sampling="sigmoid", sigmoid_scale=1.0, ip_noise_gamma=None)

stack = make_stack(RunOptions(Path(job["dataset"]), Path(), width=32, depth=2, pool=8))
denoiser = stack.denoiser
denoiser.load_state_dict(torch.load(Path(job["folder"]) / "weights.pt"))
accelerator = session.accelerator
dataset = SliceDataset(Path(job["dataset"]), config)
dataset.encode(stack.codec, stack.text, torch.device("cpu"))
loader = DataLoader(dataset, collate_fn=itemgetter(0))
optimizer = torch.optim.SGD(denoiser.parameters(), lr=0.0)
denoiser, optimizer, loader = accelerator.prepare(denoiser, optimizer, loader)

# The trainer's generator of step 0: noise levels first, then noise, sub-batch after sub-batch.
rng = random.Random("0/0/0")
rng.getrandbits(63)
torch.manual_seed(rng.getrandbits(63))
state = torch.get_rng_state()  # the loader draws a seed of its own when it starts
batches = iter(loader)
first = next(batches)
torch.set_rng_state(state)
batch = first
while True:
    with accelerator.accumulate(denoiser):
        latents = batch["latents"]
        generator = torch.Generator()
        generator.set_state(torch.get_rng_state())
        torch.randn(len(latents), generator=generator)  # the host draws its noise levels from here
        noise = torch.randn(latents.shape, generator=generator)
        noisy, steps, _ = flux_train_utils.get_noisy_model_input_and_timesteps(
            arguments, scheduler, latents, noise, torch.device("cpu"), torch.float32
        )
        torch.set_rng_state(generator.get_state())
        prediction = denoiser(noisy, steps, *batch["text"])
        loss = train_util.conditional_loss(prediction, noise - latents, "l2", "none").mean([1, 2, 3]).mean()
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            break
    batch = next(batches)
session.verify()
torch.save([p.grad for p in denoiser.parameters() if p.grad is not None], Path(job["folder"]) / "gradients.pt")
