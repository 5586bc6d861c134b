"""Sample from a FLUX model that was trained with --sga_path=spherical-slerp, in diffusers.

    python examples/spherical_sampling.py FLUX_FOLDER "a photo of a cat" --lora lora.safetensors --decoder OUT/vae

Two things differ from the usual pipeline: its scheduler is a PathScheduler, and the noise it starts from is projected
to the sphere, because a pipeline shows the model its latents before the scheduler's first step. The decoder must be one
trained for projected latents, because what token norms said is lost to a stock one; diffusers reads that of a folder:

    python -m sga_kohya.spherical decoder FLUX_FOLDER/vae PHOTOS OUT --steps 20000

What other programs cannot do with such a model: ComfyUI, the web UIs and sd-scripts' own inference scripts have no
sampler for it. They read the file without a complaint, start from noise of varying length and take Euler steps that
leave the sphere, so expect washed out or broken pictures and no word about why. The file itself says what it is, in its
metadata: ss_sga_path. A LoRA of a straight path does not fit a spherical model, nor the other way round, and a merge of
the two fits neither. Samplers of higher order (Heun, DPM++) combine points linearly, which leaves the sphere too; here
are only first-order steps along the exponential map.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline

from sga_kohya.reference.scheduler import PathScheduler


def make_spherical(pipeline: FluxPipeline, path: str = "spherical-slerp") -> FluxPipeline:
    """Give a pipeline the scheduler of a path; noise levels stay those of its own scheduler."""
    pipeline.scheduler = PathScheduler.from_config(pipeline.scheduler.config, path=path)
    return pipeline


def start(pipeline: FluxPipeline, width: int, height: int, generator: torch.Generator) -> torch.Tensor:
    """Packed noise on the sphere, (1, tokens, channels * 4), for the pipeline's argument `latents`."""
    channels, side = pipeline.transformer.config.in_channels, 2 * pipeline.vae_scale_factor
    noise = torch.randn((1, (height // side) * (width // side), channels), generator=generator)
    return pipeline.scheduler.prior(noise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="local FLUX folder in diffusers' format")
    parser.add_argument("prompt")
    parser.add_argument("--lora", type=Path, help="trained with --sga_path")
    parser.add_argument("--path", default="spherical-slerp", help="the file's ss_sga_path")
    parser.add_argument("--decoder", type=Path, help="VAE folder that `sga_kohya.spherical decoder` made of MODEL/vae")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 1024), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("spherical.png"))
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    pipeline = FluxPipeline.from_pretrained(args.model, torch_dtype=dtype)
    if args.decoder:
        pipeline.vae = AutoencoderKL.from_pretrained(args.decoder, torch_dtype=dtype)
    if args.lora:
        pipeline.load_lora_weights(str(args.lora.parent), weight_name=args.lora.name)
    make_spherical(pipeline.to(device), args.path)
    width, height = args.size
    noise = start(pipeline, width, height, torch.Generator().manual_seed(args.seed))
    image = pipeline(
        args.prompt,
        latents=noise.to(device, dtype),
        width=width,
        height=height,
        num_inference_steps=args.steps,
    ).images[0]
    image.save(args.out)
    print(f"saved: {args.out}")


if __name__ == "__main__":
    main()
