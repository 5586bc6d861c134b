"""The estimate of GPU memory, beside what the hosts publish and what their own models keep."""

import json
from argparse import Namespace
from dataclasses import replace

import pytest

from sga_kohya.hosts.memory import question
from sga_kohya.training.memory import BILLION, CUDA, MODELS, Load, parts, sentence, table, total
from sga_kohya.training.memory_report import largest, memory_of, too_much
from sga_kohya.tuples.groups import form_groups
from sga_kohya.tuples.step import Slice

# sd-scripts v0.11.1, docs/flux_train_network.md: cards on which these settings are said to work, all in 8 bits.
FLUX = [(24, 2, 0), (12, 1, 16), (10, 1, 22), (8, 1, 28)]
# musubi-tuner v0.3.4, docs/qwen_image.md: 1024 x 1024, one picture.
QWEN = [(42, 2, 0), (30, 1, 0), (24, 1, 16), (12, 1, 45)]


@pytest.mark.parametrize(("card", "batch", "swapped"), FLUX)
def test_what_sd_scripts_says_fits_a_card_is_estimated_to_fit_it(card, batch, swapped):
    load = Load(batch, 1024, 1, trained=0.04, optimizer="AdamW8bit", swapped=swapped)
    assert 0.5 * card < total(MODELS["FLUX"], load) < card


def test_what_sd_scripts_says_needs_swapping_on_16_gb_is_estimated_not_to_fit_it():
    assert total(MODELS["FLUX"], Load(2, 1024, 1, trained=0.04)) > 16
    assert total(MODELS["FLUX"], Load(1, 1024, 1, trained=0.04, swapped=4)) < 16


@pytest.mark.parametrize(("gigabytes", "weight_bytes", "swapped"), QWEN)
def test_what_musubi_tuner_has_measured_is_met_to_two_gigabytes(gigabytes, weight_bytes, swapped):
    load = Load(1, 1024, weight_bytes, trained=0.06, swapped=swapped)
    assert abs(total(MODELS["Qwen-Image"], load) - gigabytes) < 2


@pytest.mark.parametrize(
    ("model", "trained", "batch", "gigabytes"),
    [
        (MODELS["FLUX"], 0.0766, 1, 25.94),
        (replace(MODELS["FLUX"], weights=3.179, blocks=15), 0.0202, 4, 12.29),
        (replace(MODELS["FLUX"], weights=1.452, blocks=7), 0.0089, 8, 14.28),
        (MODELS["SDXL"], 0.0447, 1, 6.37),
        (MODELS["SDXL"], 0.0447, 4, 8.68),
        (MODELS["SDXL"], 0.0447, 8, 11.95),
    ],
)
def test_what_a_card_was_seen_to_hold_at_most_is_met(model, trained, batch, gigabytes):
    """tests/bench/gpu.py on an H100, 2026-11-27: stock, 1024 x 1024, LoRA of rank 16, bfloat16."""
    assert total(model, Load(batch, 1024, trained=trained)) - CUDA == pytest.approx(gigabytes, rel=0.05)


@pytest.mark.parametrize(
    ("name", "side", "kept", "whole"),
    [
        ("FLUX", 768, 1.006, 23.39),
        ("FLUX", 1280, 2.470, 57.41),
        ("SD3", 1024, 0.326, 8.55),
        ("SDXL", 768, 0.310, 3.886),
        ("Stable Diffusion", 512, 0.085, 0.936),
    ],
)
def test_activations_are_what_the_hosts_own_models_keep_for_backward(name, side, kept, whole):
    """Counted on sd-scripts v0.11.1 with torch's fake tensors and saved_tensors_hooks, one picture in bfloat16."""
    model = MODELS[name]
    found = {
        checkpointing: next(
            p for p in parts(model, Load(1, side, checkpointing=checkpointing)) if p.name == "activations"
        )
        for checkpointing in (True, False)
    }
    assert found[False].gigabytes == pytest.approx(whole * BILLION, rel=0.1)
    # With checkpointing there is a part on top that is worked on: at least one block's.
    blocks = model.blocks or 20
    assert kept < found[True].gigabytes / BILLION < kept + 2.5 * whole / blocks


def test_every_part_says_what_it_is_of_and_the_sum_is_called_an_estimate():
    load = Load(2, 768, 1, trained=0.1, optimizer="Lion8bit", swapped=10, encoders=True)
    found = list(parts(MODELS["FLUX"], load))
    assert [part.name for part in found] == ["weights", "swapped", "text encoders", "adapter", "activations", "CUDA"]
    assert found[1].gigabytes == pytest.approx(-11.9 * BILLION * 10 / 38) and found[-1].gigabytes == CUDA
    assert found[3].gigabytes == pytest.approx(0.1 * 9 * BILLION)
    lines = table(found)
    assert "blocks_to_swap = 10 of 38" in lines[1] and lines[-1].endswith("GB, an estimate")


def test_a_larger_batch_side_or_clip_takes_more_and_swapping_everything_leaves_no_weights():
    for model in MODELS.values():
        small = total(model, Load(1, 512))
        assert small < total(model, Load(2, 512)) and small < total(model, Load(1, 768))
        assert small < total(model, Load(1, 512, checkpointing=False))
    wan = MODELS["Wan"]
    assert total(wan, Load(1, 512, frames=41)) > total(wan, Load(1, 512)) > 2 * wan.weights * BILLION
    swapped = Load(1, 512, swapped=1000)
    assert sum(part.gigabytes for part in parts(wan, swapped) if part.name in ("weights", "swapped")) == 0
    assert total(MODELS["SDXL"], swapped) == total(MODELS["SDXL"], Load(1, 512)), "its host has no such option"


def test_a_full_fine_tune_holds_gradients_and_states_of_every_weight():
    load = Load(1, 1024, 2, trained=2.57, adapter=False, optimizer="AdamW")
    (training,) = (part for part in parts(MODELS["SDXL"], load) if part.name == "training")
    assert training.gigabytes == pytest.approx(2.57 * 12 * BILLION)


def arguments(**changes):
    usual = {"network_module": "networks.lora_flux", "network_dim": 16, "mixed_precision": "bf16"}
    return Namespace(**(usual | {"optimizer_type": "", "gradient_checkpointing": True, "fp8_base": False} | changes))


def write_header(path, shapes):
    tensors = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    header = json.dumps(tensors).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"weight_bytes": 2, "adapter": True, "optimizer": "AdamW", "swapped": 0}),
        ({"fp8_base": True, "blocks_to_swap": 8}, {"weight_bytes": 1, "swapped": 8}),
        ({"mixed_precision": "no"}, {"weight_bytes": 4}),
        ({"use_8bit_adam": True}, {"optimizer": "AdamW8bit"}),
        ({"optimizer_type": "prodigyopt.Prodigy"}, {"optimizer": "prodigyopt.Prodigy"}),
        ({"gradient_checkpointing": False}, {"checkpointing": False}),
        ({"network_module": None}, {"weight_bytes": 4, "adapter": False}),
        ({"network_module": None, "full_bf16": True}, {"weight_bytes": 2, "adapter": False}),
        ({"network_module": None, "fp8_base": True}, {"weight_bytes": 4}),
    ],
)
def test_a_host_s_settings_become_a_load(tmp_path, changes, expected):
    _, load = question("FLUX", arguments(**changes), tmp_path / "none.safetensors", Load(3, 640))
    assert (load.batch, load.side) == (3, 640)
    assert {key: getattr(load, key) for key in expected} == expected


def test_a_checkpoint_s_header_says_more_than_the_table(tmp_path):
    shapes = {f"double_blocks.{i}.img_attn.qkv.weight": [192, 64] for i in range(3)}
    shapes |= {f"single_blocks.{i}.linear1.weight": [448, 64] for i in range(4)}
    model, load = question("FLUX", arguments(), write_header(tmp_path / "m.safetensors", shapes), Load(1, 512))
    assert (model.blocks, model.units, model.width) == (7, 5, 64)
    assert model.weights == pytest.approx((3 * 192 * 64 + 4 * 448 * 64) / 1e9)
    assert load.trained == pytest.approx(16 * (3 * (192 + 64) + 4 * (448 + 64)) / 1e9)
    shapes = {"model.diffusion_model.out.2.weight": [4, 320, 3, 3], "first_stage_model.x": [1000, 1000]}
    model, load = question("SDXL", arguments(), write_header(tmp_path / "x.safetensors", shapes), Load(1, 512))
    assert model.weights == pytest.approx(4 * 320 * 9 / 1e9), "the autoencoder is not what is trained"
    assert question("Lumina", arguments(), tmp_path / "m.safetensors", Load(1, 512)) is None


class Levels:
    def memory(self, batch, side, frames=1):
        return MODELS["FLUX"], Load(batch, side, frames=frames)


def dataset(*buckets, batch_sizes=(2, 8)):
    slices = ((Slice(number, str(number), None, bucket), None) for number, bucket in enumerate(buckets))
    return Namespace(planner=Namespace(groups=form_groups(slices), batch_sizes=batch_sizes))


def test_the_largest_sub_batch_decides(monkeypatch):
    small, large = dataset((512, 512), (512, 512)), dataset((512, 512), (1024, 1024))
    one, other = (memory_of(largest(data, Levels())) for data in (small, large))
    assert "8 of 512 x 512" in one[-2].how and "8 of 1024 x 1024" in other[-2].how
    assert "8 of 512 x 512 x 41 frames" in memory_of(largest(dataset((512, 512, 41), (512, 512, 41)), Levels()))[-2].how
    assert memory_of(largest(Namespace(planner=Namespace(groups=form_groups([]), batch_sizes=())), Levels())) == []
    assert sentence(other).startswith("about ") and "an estimate: weights 22.2" in sentence(other)
    assert list(too_much(other)) == []  # no GPU here
    gpu = Namespace(total_memory=12 * 2**30)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: gpu)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a small card")
    assert "a small card has 12: use a smaller batch_size" in next(iter(too_much(other)))
    gpu.total_memory = 80 * 2**30
    assert list(too_much(other)) == []
