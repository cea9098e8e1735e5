"""Runs that are killed, restarted or spread over processes give what one quiet process gives.

Every run is the command people type, in processes of its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import textwrap
import time

import pytest
import torch

from tests.train_processes import (
    ENVIRONMENT,
    ROOT,
    SPREAD,
    finished,
    flat_state,
    require_equal,
    saved_state,
    saved_step,
    torchrun,
    train_command,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_five_random_steps_it_ends_where_the_unbroken_run_ends(tmp_path, workers):
    steps = 14
    settings = [f"workers={workers}", f"steps={steps}", "save_every=1", "eval_every=7"]
    settings += ["batch_norm_batches=1", "grid_update_steps=(3,)", "outliers.source=procedural"]
    finished(train_command(tmp_path / "whole", *settings))
    command = train_command(tmp_path / "parts", *settings)
    file = tmp_path / "parts" / "state.pt"
    rng = random.Random(workers)
    for step in sorted(rng.sample(range(1, steps), 5)):
        with subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, start_new_session=True
        ) as process:
            while process.poll() is None and not (file.is_file() and saved_step(file) >= step):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))  # anywhere within a step, saving included
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    finished(command)
    whole, parts = saved_state(tmp_path / "whole"), saved_state(tmp_path / "parts")
    assert whole["step"] == steps
    require_equal(parts, whole)
    logged = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    validated = [[one["val/miou"] for one in lines if "val/miou" in one] for lines in logged]
    assert validated[0] == validated[1]
    assert len(validated[0]) == 2


def _losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {k: v for k, v in lines[0].items() if k.startswith("train/loss")}


def test_two_processes_give_the_losses_of_one(tmp_path):
    finished(train_command(tmp_path / "one", *SPREAD))
    finished(train_command(tmp_path / "two", *SPREAD, launcher=torchrun("--nproc-per-node", "2")))
    one, two = _losses(tmp_path / "one"), _losses(tmp_path / "two")
    assert len(one) == 7
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-5), name
    after = [saved_state(tmp_path / name)["model"] for name in ("one", "two")]
    for key, value in after[0].items():
        torch.testing.assert_close(after[1][key], value, rtol=1e-3, atol=1e-5, msg=key)


FSDP = """
    # accelerate shards on cards alone; what it would do there is done here on the processor.
    import sys
    import training.engine.processes as processes
    import training.engine.trainer as loop
    from accelerate.utils import DistributedType
    from torch.distributed.tensor import DTensor

    plain = processes.Accelerator

    def sharding(**options):
        made = plain(**options)
        made.state._shared_state["distributed_type"] = DistributedType.FSDP
        made.state._shared_state["fsdp_plugin"] = options["fsdp_plugin"]
        return made

    processes.Accelerator = sharding
    fit = loop.Trainer.fit

    def checked(self):
        assert all(isinstance(value, DTensor) for value in self.model.parameters())
        return fit(self)

    loop.Trainer.fit = checked
    from training.train import main
    sys.exit(main())
"""


def test_sharded_over_two_processes_it_is_the_same_run_and_resumes(tmp_path):
    script = tmp_path / "fsdp.py"
    script.write_text(textwrap.dedent(FSDP))
    settings = [*SPREAD, "average_decay=0.9"]
    finished(train_command(tmp_path / "one", *settings))
    launcher = torchrun("--nproc-per-node", "2", script=(str(script),))
    environment = {"ACCELERATE_USE_FSDP": "true", "PYTHONPATH": str(ROOT)}
    finished(
        train_command(tmp_path / "two", *settings, "steps=2", launcher=launcher), **environment
    )
    assert saved_state(tmp_path / "two")["step"] == 2
    first = train_command(tmp_path / "plain", *settings, "steps=2")
    finished(first)
    sharded, plain = (saved_state(tmp_path / name) for name in ("two", "plain"))
    assert flat_state(sharded["optimizer"]).keys() == flat_state(plain["optimizer"]).keys()
    for part in ("model", "average"):
        expected = flat_state(plain[part])
        for key, value in flat_state(sharded[part]).items():
            if torch.is_tensor(value):
                torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-5, msg=key)
    done = finished(train_command(tmp_path / "two", *settings, launcher=launcher), **environment)
    assert "starting at step 2 of 3" in done.stdout
    assert saved_state(tmp_path / "two")["step"] == 3


VALIDATED = """
    import sys
    from training.engine.trainer import Trainer
    from training.train import main

    fit = Trainer.fit

    def checked(self):
        best = fit(self)
        assert self._validated == self.step == 3
        return best

    Trainer.fit = checked
    sys.exit(main())
"""


def test_every_process_knows_of_a_validation(tmp_path):
    script = tmp_path / "validated.py"
    script.write_text(textwrap.dedent(VALIDATED))
    launcher = torchrun("--nproc-per-node", "2", script=(str(script),))
    finished(train_command(tmp_path / "run", *SPREAD, launcher=launcher), PYTHONPATH=str(ROOT))


def test_a_rank_that_dies_is_restarted_and_the_run_ends_where_it_would_have(tmp_path):
    settings = [*SPREAD, "steps=8", "save_every=1", "eval_every=8"]
    unbroken = torchrun("--nproc-per-node", "2")
    finished(train_command(tmp_path / "whole", *settings, launcher=unbroken))
    launcher = torchrun("--nproc-per-node", "2", "--max-restarts", "3")
    command = train_command(tmp_path / "parts", *settings, launcher=launcher)
    file = tmp_path / "parts" / "state.pt"
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while process.poll() is None and not (file.is_file() and saved_step(file) >= 3):
            time.sleep(0.02)
        os.kill(_last_child(process.pid), signal.SIGKILL)
        try:
            output, _ = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun takes its processes with it
            output = f"{process.communicate()[0]}\nstopped after ten minutes"
    assert process.returncode == 0, output
    assert output.count("starting at step") == 2, output
    require_equal(saved_state(tmp_path / "parts"), saved_state(tmp_path / "whole"))


def _last_child(parent):
    """The newest process torchrun started: one of the two ranks."""
    listed = subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(parent)], text=True)
    return max(int(line) for line in listed.split())
