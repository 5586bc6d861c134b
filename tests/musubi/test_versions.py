"""Every musubi-tuner found here: the seams go in and come out, what families.py says of it is true, and it trains."""

import json

from sga_kohya.hosts.musubi.families import SCRIPTS

from .conftest import default_tuner
from .test_flux_2 import MEMBERS, clipped, close, eq_6, of, recorded, steps, weights

TOO_OLD = "Qwen3VLConfig"  # of transformers, which is the one that sd-scripts pins


def test_seams_go_into_every_script_and_a_family_names_the_trainer_that_mixes_noise_by_itself(
    server_of, any_tuner, tmp_path
):
    """hv_train_network's trainer is the base itself."""
    answer = tmp_path / "answer.json"
    server_of(any_tuner).do(tmp_path, [{"check": "seams", "out": answer, "tuner": str(any_tuner)}])
    found = json.loads(answer.read_text())
    for script, (result, overrides) in found.items():
        if result == "absent":
            assert any_tuner != default_tuner(), f"{script} is not in the version that everything is tested on"
        elif TOO_OLD in result:
            assert script in ("krea2_train_network", "ideogram4_train_network")
        else:
            assert result == "installed", f"{script}: {result}"
            expected = [SCRIPTS[script].trainer] if SCRIPTS[script].trainer else []
            assert overrides == expected, f"{script} mixes noise in {overrides}"


def test_it_trains_whole_groups_and_resumes(run, any_tuner, tmp_path):
    """FLUX.2, or Z-Image where that is not there yet."""
    there = (any_tuner / "src" / "musubi_tuner" / "flux_2_train_network.py").is_file()
    stack = "flux_2" if there else "z_image"
    common = {"stack": stack, "door": "sga", "max_train_epochs": 2, "save_state": True, "save_every_n_steps": 5}
    again = {**common, "resume": tmp_path / "whole" / "tiny-step00000005-state"}
    run({"out": "whole", "record": True, **common}, {"out": "again", **again}, tuner=any_tuner)
    trained = steps(recorded(tmp_path, "whole"))
    assert sorted(n for s in trained for b in of(s, "batch") for n in b["ids"]) == sorted([*MEMBERS, *MEMBERS])
    for step in trained:
        close(of(step, "step")[0]["grads"], clipped(eq_6(of(step, "batch"), of(step, "backward"))))
    whole, other = weights(tmp_path / "whole"), weights(tmp_path / "again")
    assert all((whole[key] == other[key]).all() for key in whole) and whole.keys() == other.keys()
