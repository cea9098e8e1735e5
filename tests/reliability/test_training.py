"""A training run loses nothing: kills, dead processes, poisoned numbers, too little memory.

Every fault is a real one, but the memory of a GPU: that error is raised, not provoked.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import uuid

import numpy as np
import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from mask2kan.errors import BackendError, CheckpointError, NumericsError, OutOfMemoryError
from tests.reliability.mutations import Mutation
from tests.tiny_runs import tiny_trainer
from tests.train_processes import (
    ROOT,
    SPREAD,
    finished,
    flat_state,
    require_equal,
    saved_state,
    train_command,
)
from training.engine.run_folder import RunFolder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kill -9 and fork")

SECONDS = 60.0  # within which a rank notices that another one is gone


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    AcceleratorState._reset_state(reset_partial_state=True)


# Saves for ever in a child of its own, kills it at a random moment, and looks at what is there. A
# second child is in the middle of writing all the while: its file has to be left alone.
KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from mask2kan.media.files import atomic_writer
from training.engine.run_folder import RunFolder

run, kills, rng = RunFolder(Path(sys.argv[1])), int(sys.argv[2]), random.Random(int(sys.argv[3]))
torch.set_num_threads(1)

def state(step):
    value = torch.full((250_000,), float(step))
    return {"model": {"w": value}, "optimizer": {"m": value + 0}, "average": {}, "step": step}

def child(work):
    ready, told = os.pipe()
    pid = os.fork()
    if pid:
        os.close(told)
        os.read(ready, 1)
        os.close(ready)
        return pid
    work(lambda: os.write(told, b"."))
    os._exit(0)

def slow_writer(ready):
    with atomic_writer(run.folder / "slow") as file:
        file.write(bytes(100_000))
        file.flush()
        ready()
        while not (run.folder / "stop").exists():
            time.sleep(0.01)

def saver(ready):
    step = run.load_state()["step"]
    ready()
    while True:
        step += 1
        run.save_state(state(step))

def strays():
    return sum(1 for path in run.folder.glob(".state.pt.*.tmp"))

os.waitpid(child(lambda ready: (run.save_state(state(1)), ready())), 0)
writer = child(slow_writer)
unreadable = back = left = 0
last = 1
for _ in range(kills):
    before = strays()
    pid = child(saver)
    time.sleep(rng.uniform(0.0, 0.02))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    left += strays() > 0
    try:
        found = run.load_state()
    except Exception as error:
        print(error, file=sys.stderr)
        unreadable += 1
        continue
    whole = bool((found["model"]["w"] == found["step"]).all())
    unreadable += not whole
    back += found["step"] < last
    last = found["step"]
pid = child(lambda ready: (run.save_state(state(last + 1)), ready()))
os.waitpid(pid, 0)
(run.folder / "stop").touch()
status = os.waitpid(writer, 0)[1]
print(json.dumps({"unreadable": unreadable, "back": back, "saved": last, "left": left,
    "strays": strays(), "writer": status, "slow": (run.folder / "slow").exists()}))
"""


@pytest.mark.row("kill -9 while saving", limit="0 unreadable, 0 stray files after the next save")
def test_a_kill_while_saving_loses_nothing(tmp_path, scale, seed, figure):
    kills = scale(25, 500)
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(kills), str(seed)]
    done = finished(command, PYTHONPATH=_with_root())
    seen = json.loads(done.stdout.splitlines()[-1])
    figure(
        f"{kills} kills, {seen['unreadable']} unreadable, {seen['left']} left a stray file, "
        f"{seen['strays']} are left"
    )
    assert seen["unreadable"] == seen["back"] == seen["strays"] == 0, done.stderr
    assert seen["left"] > kills / 10  # or the kills hit nothing
    assert (seen["writer"], seen["slow"]) == (0, True)  # a living one is left alone


FULL = ["batch_norm_batches=1", "grid_update_steps=(2,)", "outliers.source=procedural"]


@pytest.mark.row("resume drift", limit="bit-equal after any step, with 0 and 2 workers")
def test_a_resumed_run_is_the_run(tmp_path, scale, figure):
    steps = scale(3, 8)
    cases = scale([(1, 2), (2, 0)], [(stop, workers) for workers in (0, 2) for stop in range(1, 8)])
    settings = [*FULL, f"steps={steps}", "eval_every=2", "save_every=1"]
    tiny_trainer(tmp_path / "whole", *settings).fit()
    whole = saved_state(tmp_path / "whole")
    same = 0
    figure(f"{same} of {len(cases)} bit-equal")
    for stop, workers in cases:
        folder = tmp_path / f"{stop}_{workers}"
        first = tiny_trainer(folder, *settings, f"workers={workers}")
        _at_step(first, stop, lambda batch, run=first: run._ask_to_stop())
        first.fit()
        assert first.step == saved_state(folder)["step"] == stop
        torch.manual_seed(stop)  # a new process would begin anywhere
        tiny_trainer(folder, *settings, f"workers={workers}", resume=True).fit()
        require_equal(saved_state(folder), whole)
        same += 1
        figure(f"{same} of {len(cases)} bit-equal")
    assert {"rng", "order", "optimizer", "average"} < whole.keys()


def _at_step(trainer, step, inject):
    """Call ``inject`` with the batch before a step's update."""
    update = trainer._update

    def injected(batch):
        if trainer.step + 1 == step:
            inject(batch)
        return update(batch)

    trainer._update = injected


def _fill(tensor, value):
    with torch.no_grad():
        tensor[(0,) * tensor.dim()] = value


def _moment(trainer, name, value):
    parameter = trainer.model.pixel_decoder.level_embed
    _fill(trainer.optimizer.optimizer.state[parameter][name], value)


def _loss(trainer, value):
    trainer.wrapped.register_forward_hook(
        lambda module, inputs, outputs: (
            {**outputs[0], "loss": outputs[0]["loss"] * value},
            outputs[1],
        )
    )


def _gradient(trainer, value):
    weight = trainer.model.pixel_decoder.mask_features.weight
    weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), value))


NAN, INF = float("nan"), float("inf")
# What is poisoned before the second step: the trainer and the batch are given.
POISONS = {
    "NaN in an image": lambda trainer, batch: _fill(batch["images"], NAN),
    "infinity in an image": lambda trainer, batch: _fill(batch["images"], INF),
    "NaN in a weight": lambda trainer, batch: _fill(
        trainer.model.transformer_decoder.class_embed.weight, NAN
    ),
    "infinity in a spline": lambda trainer, batch: _fill(
        trainer.model.transformer_decoder.mask_embed.layers[0].spline_weight, INF
    ),
    "NaN as loss": lambda trainer, batch: _loss(trainer, NAN),
    "infinity as loss": lambda trainer, batch: _loss(trainer, INF),
    "NaN in a gradient": lambda trainer, batch: _gradient(trainer, NAN),
    "infinity in a gradient": lambda trainer, batch: _gradient(trainer, INF),
    "NaN in a first moment": lambda trainer, batch: _moment(trainer, "exp_avg", NAN),
    "infinity in a second moment": lambda trainer, batch: _moment(trainer, "exp_avg_sq", INF),
    "overflow in bfloat16": lambda trainer, batch: _fill(
        trainer.model.pixel_decoder.mask_features.weight, 3e38
    ),
}


@pytest.mark.row("NaN/Inf step", limit="0 poisoned checkpoints; step and images named")
def test_a_poisoned_step_stops_before_its_update(tmp_path, scale, figure):
    poisoned = 0
    for number, (name, poison) in enumerate(POISONS.items(), 1):
        folder = tmp_path / name.replace(" ", "_")
        precision = "bf16" if "bfloat16" in name else "no"
        settings = ["grid_update_steps=()", "steps=3", "eval_every=3", "save_every=1"]
        trainer = tiny_trainer(folder, *settings, mixed_precision=precision)
        _at_step(trainer, 2, lambda batch, run=trainer, do=poison: do(run, batch))
        what = ".* the loss is" if "as loss" in name else ""  # the gradient would show it, too
        where = r"update at step 2, images train_\d+, train_\d+"
        with pytest.raises(NumericsError, match=where + what):
            trainer.fit()
        saved = saved_state(folder)
        poisoned += _is_poisoned(folder)
        figure(f"{number} of {len(POISONS)} stopped, {poisoned} poisoned checkpoints")
        assert saved["step"] == 1, name
        untouched = trainer.model.pixel_decoder.level_embed
        assert torch.equal(untouched, saved["model"]["pixel_decoder.level_embed"]), name
        AcceleratorState._reset_state(reset_partial_state=True)
    assert poisoned == 0


def _is_poisoned(folder):
    tensors = [
        value for value in flat_state(saved_state(folder)).values() if torch.is_tensor(value)
    ]
    for path in folder.glob("*.safetensors"):
        tensors += load_file(path).values()
    return not all(value.isfinite().all() for value in tensors)


@pytest.mark.row("NaN/Inf in what no step shows", limit="0 poisoned checkpoints; step named")
def test_what_no_step_shows_is_not_saved(tmp_path, figure):
    """Running statistics count only where the model is evaluated, the average never in a step."""
    places = {
        "model": lambda run: next(
            value for name, value in run.model.named_buffers() if name.endswith("running_var")
        ),
        "average": lambda run: run.average.model.pixel_decoder.level_embed,
    }
    for place, tensor_of in places.items():
        folder = tmp_path / place
        trainer = tiny_trainer(folder, "steps=3", "eval_every=3", "save_every=1")
        _at_step(trainer, 2, lambda batch, run=trainer, of=tensor_of: _fill(of(run), NAN))
        with pytest.raises(
            NumericsError, match=rf"Nothing is saved at step 2: .*{place}.*--resume"
        ):
            trainer.fit()
        assert saved_state(folder)["step"] == 1
        assert not _is_poisoned(folder)
        AcceleratorState._reset_state(reset_partial_state=True)
    figure(f"{len(places)} places, 0 poisoned checkpoints")


# What torchrun does, without its import of everything at each restart: starts two ranks, and where
# one dies ends the other and starts both again. Kills are made here, by what is on the disk.
LAUNCHER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from tests.train_processes import saved_step
import training.engine.trainer
from training.train import main

root, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
whole, parts = root / "whole", root / "parts"
# One store for all restarts, as torchrun's
store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

def rank(folder, number, attempt):
    pid = os.fork()
    if pid:
        return pid
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": str(attempt)}
    status = 1
    try:
        status = main([*sys.argv[4:], "--out", str(folder)])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

def both(folder, attempt):
    return [rank(folder, 0, attempt), rank(folder, 1, attempt)]

def ended(pid, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    return False

longest, hung = 0.0, 0
for attempt in range(kills):
    reached = saved_step(parts / "state.pt")
    ranks = both(parts, attempt)
    until = time.monotonic() + SECONDS
    while saved_step(parts / "state.pt") <= reached:
        time.sleep(0.01)
        if time.monotonic() > until:
            for pid in ranks:
                os.kill(pid, signal.SIGKILL)
            sys.exit(f"no step in {SECONDS} seconds after restart {attempt}")
    time.sleep(rng.uniform(0.0, 0.2))  # anywhere in a step
    victim, survivor = rng.sample(ranks, 2)
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    start = time.monotonic()
    os.kill(survivor, signal.SIGTERM)
    if not ended(survivor, SECONDS):
        hung += 1
        os.kill(survivor, signal.SIGKILL)
        os.waitpid(survivor, 0)
    longest = max(longest, time.monotonic() - start)
statuses = [os.waitpid(pid, 0)[1] for pid in both(parts, kills)]
statuses += [os.waitpid(pid, 0)[1] for pid in both(whole, kills + 1)]
print(json.dumps({"longest": longest, "hung": hung, "statuses": statuses}))
""".replace("SECONDS", f"{SECONDS}")


@pytest.mark.row(
    "rank death", limit=f"it ends, equal; a rank left is gone within {SECONDS:.0f} s; no orphan"
)
def test_a_rank_that_dies_costs_no_more_than_a_restart(tmp_path, scale, seed, figure):
    kills, steps = scale((2, 3), (20, 25))
    settings = [*SPREAD, f"steps={steps}", f"eval_every={steps}", "save_every=1", "workers=1"]
    mark = uuid.uuid4().hex
    script = ("-c", LAUNCHER, str(tmp_path), str(kills), str(seed))
    command = train_command(tmp_path, *settings, launcher=script)
    done = finished(command, RELIABILITY_RUN=mark, PYTHONPATH=_with_root())
    told = json.loads(done.stdout.splitlines()[-1])
    orphans = _processes_of(mark)
    figure(
        f"{kills} kills, {told['hung']} ranks hung, the other rank gone after at most "
        f"{told['longest']:.1f} s; {len(orphans)} orphans"
    )
    assert told["statuses"] == [0] * 4, done.stderr
    assert done.stdout.count("starting at step") == kills + 2
    assert told["hung"] == len(orphans) == 0
    require_equal(saved_state(tmp_path / "parts"), saved_state(tmp_path / "whole"))
    losses = [_losses(tmp_path / name) for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def _with_root():
    """The path that modules are found on, which a mutation leads."""
    return os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))


def _losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["val/miou"] for line in lines if "val/miou" in line]


def _processes_of(mark):
    """What is still there of a run ten seconds after it: loading processes look every five."""
    for _ in range(100):
        there = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("RELIABILITY_RUN") == mark:
                    there.append(process)
            except psutil.Error:
                continue
        if not there:
            break
        time.sleep(0.1)
    return there


def _no_memory_on_a_gpu(trainer):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _loading_process_killed(trainer):
    own = psutil.Process()
    for child in own.children():
        if child.cmdline() == own.cmdline():  # forked: no server of torch's, no browser of tests
            child.kill()
            child.wait(10)


def _connection_lost(trainer):
    raise torch.distributed.DistNetworkError("Connection closed by peer [127.0.0.1]:9999")


ENDINGS = {
    "GPU (simulated)": (_no_memory_on_a_gpu, OutOfMemoryError, "batch_size=1"),
    "CPU": (lambda trainer: torch.empty(2**55), OutOfMemoryError, "batch_size=1"),
    "numpy": (lambda trainer: np.empty(2**55), OutOfMemoryError, "batch_size=1"),
    "loading process": (_loading_process_killed, OutOfMemoryError, "workers=0"),
    "connection (simulated)": (_connection_lost, BackendError, "--max-restarts"),
}


@pytest.mark.row("training out of memory", limit="one sentence with a remedy; the state is whole")
def test_what_ends_a_run_from_outside_names_a_remedy(tmp_path, figure):
    for number, (name, (fault, kind, remedy)) in enumerate(ENDINGS.items(), 1):
        settings = ["steps=40", "eval_every=40", "save_every=1", "workers=1"]
        trainer = tiny_trainer(tmp_path / str(number), *settings)
        _at_step(trainer, 2, lambda batch, run=trainer, do=fault: do(run))
        with pytest.raises(kind, match=rf"--resume.*{remedy}|{remedy}.*--resume") as caught:
            trainer.fit()
        assert "\n" not in str(caught.value), name
        state = saved_state(tmp_path / str(number))
        assert state["step"] >= 1
        AcceleratorState._reset_state(reset_partial_state=True)
        figure(f"{number} of {len(ENDINGS)} told: {', '.join(list(ENDINGS)[:number])}")


@pytest.mark.row("damaged state", limit="all refused in a sentence, or equal")
def test_a_damaged_state_is_refused(tmp_path, scale, seed, figure):
    run = RunFolder(tmp_path)
    values = torch.arange(5000.0)
    state = {"model": {"w": values}, "optimizer": {}, "average": {"m": -values}, "step": 7}
    run.save_state(state)
    whole = (tmp_path / "state.pt").read_bytes()
    rng = random.Random(seed)
    damaged = [whole[: rng.randrange(len(whole))] for _ in range(scale(20, 200))]
    for _ in range(scale(100, 2000)):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(flipped))
    refused = equal = 0
    for content in damaged:
        (tmp_path / "state.pt").write_bytes(content)
        try:
            found = run.load_state()
        except CheckpointError as error:
            refused += "\n" not in str(error) and "state.pt" in str(error)
        else:
            equal += _is_equal(found, state)
    figure(f"{len(damaged)} damaged, {refused} refused in a sentence, {equal} equal all the same")
    assert refused + equal == len(damaged)
    for foreign in ([1, 2], {"state_dict": {}}, values, {"step": 1}):
        torch.save(foreign, tmp_path / "state.pt")
        with pytest.raises(CheckpointError, match="not the state of a run"):
            run.load_state()
    torch.save({**state, "model": Foreign()}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"Cannot continue from .*state\.pt"):
        run.load_state()


def _is_equal(found, expected):
    try:
        require_equal(found, expected)
    except AssertionError:
        return False
    return True


class Foreign:
    """What no state holds: torch's reader refuses to make one."""

    def __reduce__(self):
        return os.system, ("true",)


TRAINER, NUMERICS = "training.engine.trainer", "training.engine.numerics"
RUN_FOLDER, FAILURES = "training.engine.run_folder", "training.engine.failures"
KILL, STEP = "test_a_kill_while_saving", "test_a_poisoned_step"
OUTSIDE, DAMAGED = "test_what_ends_a_run_from_outside", "test_a_damaged_state"
MUTATIONS = [
    Mutation(
        "a state replaces the one before when it is whole",
        KILL,
        RUN_FOLDER,
        'atomic_writer(self.folder / "state.pt", size)',
        '(self.folder / "state.pt").open("wb")',
    ),
    Mutation(
        "stray files of killed writers are removed",
        KILL,
        "mask2kan.media.files",
        "_remove_abandoned_once(path.parent)",
        "pass",
    ),
    Mutation(
        "a living writer's file is left alone",
        KILL,
        "mask2kan.media.files",
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
    ),
    Mutation(
        "a resumed run goes on with the next crop",
        "test_a_resumed_run",
        TRAINER,
        "self._crops(self.step * self.config.batch_size)",
        "self._crops(0)",
    ),
    Mutation(
        "a resumed run goes on with its average",
        "test_a_resumed_run",
        "training.engine.ema",
        'self.updates = state["updates"]',
        "pass",
    ),
    Mutation(
        "a resumed run goes on with its learning rate",
        "test_a_resumed_run",
        TRAINER,
        'self.schedule.load_state_dict(saved["schedule"])',
        "pass",
    ),
    Mutation("a loss is finite", STEP, TRAINER, "require_finite_losses(losses, where)", "pass"),
    Mutation(
        "a gradient is finite",
        STEP,
        TRAINER,
        "require_finite_gradient(self.model, norm, self.accelerator.scaler, where)",
        "pass",
    ),
    Mutation(
        "the optimizer's moments are finite",
        STEP,
        TRAINER,
        "require_finite_moments(self.model, self.optimizer.optimizer, where)",
        "pass",
    ),
    Mutation(
        "what is saved is finite",
        "test_what_no_step_shows",
        TRAINER,
        'require_finite_state(state, f"step {self.step}")',
        "pass",
    ),
    Mutation(
        "a restart meets apart from the dead",
        "test_a_rank_that_dies",
        "training.engine.rendezvous",
        'PrefixStore(f"attempt_{attempt}", store)',
        "store",
    ),
    Mutation(
        "too little memory is told", OUTSIDE, FAILURES, "if is_out_of_memory(error):", "if False:"
    ),
    Mutation(
        "a dead loading process is told",
        OUTSIDE,
        FAILURES,
        "if str(error).startswith(_LOADING) or isinstance(error, (ConnectionError, EOFError)):",
        "if False:",
    ),
    Mutation("a lost rank is told", OUTSIDE, FAILURES, "isinstance(error, DistError)", "False"),
    Mutation(
        "a state's checksums are compared",
        DAMAGED,
        RUN_FOLDER,
        "archive.testzip()",
        "None",
    ),
    Mutation(
        "a state is the state of a run",
        DAMAGED,
        RUN_FOLDER,
        "not isinstance(state, dict) or not state.keys() >= _STATE",
        "False",
    ),
]
