"""The dataset as the trainer will build it, with our seams in place: its plan, its warnings, its number of steps."""

import argparse
from collections.abc import Sequence

from sga_kohya.config import SgaConfig
from sga_kohya.doctor.findings import Findings
from sga_kohya.doctor.patient import Patient
from sga_kohya.training.memory import table
from sga_kohya.training.memory_report import largest, memory_of
from sga_kohya.training.plan_report import describe
from sga_kohya.training.session import Session

_WARNING = "warning: "


def check_data(
    patient: Patient,
    script: str,
    args: argparse.Namespace,
    words: Sequence[str],
    config: SgaConfig,
    session: Session,
    findings: Findings,
) -> int:
    """Build the training dataset and describe it. Returns its steps an epoch."""
    items, batches = patient.data(script, args, words, session)
    if not config.active:
        findings.ok(f"stock {patient.name}: {items} images, {batches} batches an epoch")
        return batches
    dataset, plan = session.data(), []
    levels = patient.levels(script, args, config)
    asked = largest(dataset, levels)
    for line in describe(dataset, config, levels, args, asked).strip("\n").split("\n"):
        if line.strip().startswith(_WARNING):
            findings.warning(line.strip().removeprefix(_WARNING))
        else:
            plan.append(line)
    findings.ok("\n".join(plan))
    with findings.about("memory"):
        memory = memory_of(asked)
        if memory:
            findings.ok("\n".join(table(memory)))
    return len(dataset)


def count_checkpoints(args: argparse.Namespace, steps_an_epoch: int) -> int:
    """How many files a run will leave, the last one included."""
    accumulation = int(args.gradient_accumulation_steps or 1)
    updates = max(1, -(-steps_an_epoch // accumulation))
    epochs = args.max_train_epochs or max(1, -(-int(args.max_train_steps) // updates))
    kept = 0
    if args.save_every_n_epochs:
        kept = min((epochs - 1) // args.save_every_n_epochs, args.save_last_n_epochs or epochs)
    if args.save_every_n_steps:
        every = args.save_every_n_steps
        count = (epochs * updates - 1) // every
        kept += min(count, args.save_last_n_steps // every + 2) if args.save_last_n_steps else count
    return kept + 1
