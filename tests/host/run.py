"""Run one real sd-scripts script on the tiny stack, through the stock door or ours, and record what happens.

    python tests/host/run.py --checkout DIR --script flux_train_network.py --door sga --record FILE.pt -- <arguments>

The recorder knows neither the host's loops nor our seams. It acts when the script creates its accelerator, after any
door has installed itself, and wraps what the script then sees. FILE.rank0.pt holds a list of dicts in order:

    batch      what a prepared data loader yielded; `loader` 0 is the training one, `shape` of pixels or cached latents
    timesteps  what the script got from get_noisy_model_input_and_timesteps or a U-Net's function (whose `sigmas` are
               t / 1000), and the `loader` of the batch at hand; `grad`: gradient mode, which the host leaves on in
               validation too
    backward   `loss` as the script passed it, unscaled, and `grads`: its gradient for each trainable parameter;
               `losses`: the mean of each sample, (B,), before the script weighted them
    step       `grads` as handed to the optimizer, for each trainable parameter
    end        `weights`: the trainable parameters when training ends
"""

import argparse
import functools
import importlib.util
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

CARD = "SGA_TEST_CARD"
"""The variable that names a card, such as 0, for all runs of one process; everything else stays on the processor."""
ON_CARD = {
    "CUDA_VISIBLE_DEVICES": os.environ.get(CARD, ""),
    "ACCELERATE_USE_CPU": "false",
    # As near to the processor's numbers as a card comes.
    "NVIDIA_TF32_OVERRIDE": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # else asking whether there is a card breaks it for forks
}
ON_PROCESSOR = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    **(ON_CARD if os.environ.get(CARD) else ON_PROCESSOR),
    "TOKENIZERS_PARALLELISM": "false",  # it warns when data loader workers fork
    "OMP_NUM_THREADS": "1",
}
STACKS = {"flux": "flux", "sdxl": "sdxl", "sd3": "sd3", "lumina": "lumina", "anima": "anima", "hunyuan": "hunyuan"}


class Recorder:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.undo: list[Callable[[], None]] = []
        self.loaders = 0
        self.current_loader: int | None = None
        self.losses: Any = None

    def install(self) -> None:
        from accelerate import Accelerator
        from accelerate.optimizer import AcceleratedOptimizer

        original_init, original_step = Accelerator.__init__, AcceleratedOptimizer.step

        @functools.wraps(original_init)
        def init(accelerator, *args, **kwargs):
            original_init(accelerator, *args, **kwargs)
            self.attach(accelerator)

        @functools.wraps(original_step)
        def step(optimizer, *args, **kwargs):
            if optimizer.gradient_state.sync_gradients:
                grads = [None if p.grad is None else p.grad.detach().clone() for p in trainable([optimizer])]
                self.events.append({"kind": "step", "grads": grads})
            return original_step(optimizer, *args, **kwargs)

        Accelerator.__init__, AcceleratedOptimizer.step = init, step

    def attach(self, accelerator: Any) -> None:
        """Shadow methods on the instance, so that a subclass with its own scaling is seen from outside."""
        import torch

        prepare, backward, end_training = accelerator.prepare, accelerator.backward, accelerator.end_training

        def recorded_prepare(*args, **kwargs):
            prepared = prepare(*args, **kwargs)
            for given, result in zip(args, prepared if isinstance(prepared, tuple) else (prepared,), strict=True):
                if isinstance(given, torch.utils.data.DataLoader):
                    self.watch_loader(result)
                if isinstance(given, torch.nn.Module) and os.environ.get("TINY_MODEL_PREDICTS_NOTHING"):
                    given.register_forward_hook(lambda module, inputs, output: nothing_like(output))
            return prepared

        def recorded_backward(loss, *args, **kwargs):
            params = trainable(accelerator._optimizers)
            grads = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
            event = {"kind": "backward", "loss": loss.detach().clone(), "losses": self.losses, "grads": list(grads)}
            self.events.append(event)
            return backward(loss, *args, **kwargs)

        def recorded_end(*args, **kwargs):
            for restore in reversed(self.undo):  # a door that undoes its patches must find its own functions
                restore()
            weights = [parameter.detach().clone() for parameter in trainable(accelerator._optimizers)]
            self.events.append({"kind": "end", "weights": weights})
            return end_training(*args, **kwargs)

        accelerator.prepare, accelerator.backward = recorded_prepare, recorded_backward
        accelerator.end_training = recorded_end
        for name, (record, owners) in self.watched().items():
            for owner in owners:
                if hasattr(module := sys.modules.get(owner), name):
                    self.watch(module, name, record)

    def watch_loader(self, loader: Any) -> None:
        number, kind = self.loaders, type(loader)
        self.loaders += 1

        def recorded_iter(this) -> Iterator[Any]:
            for batch in kind.__iter__(this):
                self.current_loader = number
                self.events.append({"kind": "batch", "loader": number, **describe(batch)})
                yield batch

        # A subclass instead of a proxy: the host and accelerate ask for the type and for attributes of a loader.
        # Through `object`, because accelerate's loaders hide their class behind a property.
        watched = type(kind.__name__, (kind,), {"__iter__": recorded_iter, "__slots__": ()})
        object.__dict__["__class__"].__set__(loader, watched)

    def watched(self) -> dict[str, tuple[Callable[[Any], None], tuple[str, ...]]]:
        """What is recorded of a step: its function, what to do with the result, and where versions keep it."""
        return {
            "get_noisy_model_input_and_timesteps": (
                self.record_timesteps,
                ("library.flux_train_utils", "library.sd3_train_utils", "library.lumina_train_util"),
            ),
            "get_noise_noisy_latents_and_timesteps": (self.record_timesteps, ("library.loss", "library.train_util")),
            "conditional_loss": (self.record_losses, ("library.loss", "library.train_util")),
        }

    def watch(self, owner: Any, name: str, record: Callable[[Any], None]) -> None:
        original = getattr(owner, name)
        if getattr(original, "recorded", False):
            return

        @functools.wraps(original)
        def recorded(*args, **kwargs):
            result = original(*args, **kwargs)
            record(result)
            return result

        recorded.recorded = True
        # v0.11 re-exports its functions, and whoever holds them must be recorded once.
        for module in [
            m for n, m in list(sys.modules.items()) if n.startswith("library.") and vars(m).get(name) is original
        ]:
            setattr(module, name, recorded)
            self.undo.append(lambda module=module: setattr(module, name, original))

    def record_timesteps(self, result: Any) -> None:
        import torch

        unet = not result[2].is_floating_point()
        timesteps = result[2] if unet else result[1]
        sigmas = timesteps / 1000 if unet else result[2]
        self.events.append(
            {
                "kind": "timesteps",
                "loader": self.current_loader,
                "timesteps": timesteps.detach().clone(),
                "sigmas": sigmas.detach().flatten().clone(),
                "shape": tuple(result[1 if unet else 0].shape),
                "grad": torch.is_grad_enabled(),
            }
        )

    def record_losses(self, loss: Any) -> None:
        self.losses = loss.detach().flatten(1).mean(1) if loss.ndim else loss.detach().clone()

    def save(self, path: Path) -> None:
        import torch

        torch.save(self.events, path.with_suffix(f".rank{os.environ.get('RANK', 0)}.pt"))


def without_card() -> dict[str, str]:
    """The environment of a run of several processes: NCCL gives each a card of its own."""
    return {name: value for name, value in os.environ.items() if name != CARD}


def nothing_like(output: Any) -> Any:
    """The output of a model, all zeros, with its graph."""
    return type(output)(map(nothing_like, output)) if isinstance(output, tuple | list) else 0 * output


def trainable(optimizers: list[Any]) -> list[Any]:
    return [p for o in optimizers for group in o.param_groups for p in group["params"] if p.requires_grad]


def describe(batch: dict[str, Any]) -> dict[str, Any]:
    """What identifies a batch, without its pixels. image_keys are there only where the host gives them.

    masks: of each sample, if it has a mask image or alpha: the mean of its left and of its right half, from 0 to 1.
    """
    pixels = batch["images"] if batch.get("images") is not None else batch["latents"]
    wanted = ("captions", "loss_weights", "custom_attributes", "image_keys", "flippeds")
    known = {"shape": tuple(pixels.shape), **{key: batch[key] for key in wanted if key in batch}}
    alpha = batch.get("alpha_masks")
    if "conditioning_images" in batch or alpha is not None:
        whole = batch["conditioning_images"] / 2 + 0.5 if alpha is None else alpha.unsqueeze(1)
        halves = whole.chunk(2, dim=3)
        known["masks"] = [[half[i].mean().item() for half in halves] for i in range(len(pixels))]
    return known


def load_stack(script: str) -> ModuleType:
    """The tiny stack of a script's family, from this folder as a package of its own: the checkout has one `tests`."""
    folder = Path(__file__).parent
    spec = importlib.util.spec_from_file_location("tiny_stacks", folder / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    package.__path__ = [str(folder)]
    sys.modules["tiny_stacks"] = package
    family = next((name for prefix, name in STACKS.items() if script.startswith(prefix)), "sd15")
    return importlib.import_module(f"tiny_stacks.tiny_{family}")


def split_at_dashes(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--script", help="a script of the checkout")
    parser.add_argument("--door", choices=["stock", "sga"], default="stock")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--write_models", type=Path, help="write the tiny models to this folder instead")
    own, script_args = split_at_dashes(sys.argv[1:])
    options = parser.parse_args(own)

    os.environ.update(OFFLINE)
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # This folder out (its module names are common words), the checkout first, and then the tree that these tests belong
    # to: another one may be installed.
    checkout, repository = options.checkout.resolve(), Path(__file__).resolve().parents[2]
    sys.path[:] = [str(checkout), str(repository), *sys.path[1:]]
    stack = load_stack(options.script or "flux")
    stack.shrink_host()
    if options.write_models:
        stack.write_models(options.write_models)
        return

    recorder = Recorder()
    if options.record:
        recorder.install()
    try:
        if options.door == "stock":
            script = str(checkout / options.script)
            sys.argv = [script, *script_args]
            runpy.run_path(script, run_name="__main__")
        else:
            from sga_kohya.launch import run

            run(options.script, ["--sd_scripts", str(checkout), *script_args])
    finally:
        if options.record:
            recorder.save(options.record)


if __name__ == "__main__":
    main()
