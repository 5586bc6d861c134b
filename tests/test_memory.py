"""The estimate of GPU memory, beside what the hosts publish and what their own models keep."""

import pytest

from sga_kohya.training.memory import BILLION, CUDA, MODELS, Load, parts, table, total

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
