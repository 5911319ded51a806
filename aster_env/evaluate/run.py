"""Plays the samples of an evaluation that are not played yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from aster_env.env import ToolEnv
from aster_env.errors import InfrastructureError, UsageError
from aster_env.evaluate.manifest import COMPARED, as_plain, continue_manifest, make_manifest, now
from aster_env.evaluate.policies import OpenPolicy, open_policy
from aster_env.evaluate.policies.python import load_function
from aster_env.evaluate.progress import Progress
from aster_env.evaluate.records import (
    Sample,
    SampleWriter,
    locked,
    make_sample,
    read_manifest,
    read_samples,
    write_manifest,
)
from aster_env.evaluate.settings import EvalSettings, folder_name, sample_seed
from aster_env.limits import BYTES_A_TOKEN
from aster_env.making import make_envs
from aster_env.modules import with_modules
from aster_env.rollout import Policy, play
from aster_env.tasks import TaskSet, share_tasks
from aster_env.types import StopReason, Task, Trajectory

FAILURES = 20
"""Samples that may fail in a row before the run stops."""
PAUSE = 1.0
"""Seconds before a failed sample is played again; doubled each time, up to a minute."""


@dataclass(slots=True)
class Job:
    """One task set of an evaluation.

    Args:
        folder: of its run.
        arguments: of the environment, its tasks loaded.
        tasks: those that are played.
        old: the manifest of a run that goes on, if it does.
        manifest: of the run.
        done: the samples that have a score, without their turns.
    """

    folder: Path
    arguments: dict[str, Any]
    tasks: TaskSet
    old: dict[str, Any] | None
    manifest: dict[str, Any]
    done: dict[tuple[str, int], Sample]

    @property
    def total(self) -> int:
        """How many samples the whole run has."""
        return len(self.tasks) * int(self.manifest["settings"]["k"])

    @property
    def pending(self) -> list[tuple[Task, int]]:
        """The samples that are still to be played: the first of every task, then the second, and so on."""
        numbers = range(self.manifest["settings"]["k"])
        return [(task, n) for n in numbers for task in self.tasks if (task.id, n) not in self.done]


async def evaluate(settings: EvalSettings, folder: str | Path, stream: TextIO | None = None) -> list[Path]:
    """Play what is missing of an evaluation, and return the folders of its runs, one a task set.

    Each sample is on the disk before it counts, so that the process may be killed at any time: the same call then
    goes on. Samples that failed outside the model are played again. A cancelled call closes all it opened.

    Args:
        settings: what is evaluated.
        folder: where; with several task sets each has a folder in it.
        stream: for progress; None: standard error.

    Raises:
        UsageError: the settings cannot work, the folder holds a run of others, or another process writes to it.
        InfrastructureError: too many samples in a row failed; what was played is kept.
    """
    folder = Path(folder)
    # What can be wrong with the settings is found before the folder is made, the rest before the model is loaded.
    jobs = [await asyncio.to_thread(_prepare, settings, tasks, place) for tasks, place in _places(settings, folder)]
    if settings.policy.kind == "python" and not all(read_manifest(job.folder) for job in jobs):
        await asyncio.to_thread(load_function, settings.policy.model)
    with locked(folder):
        for job in jobs:
            await asyncio.to_thread(_look_up, job)
        if any(job.pending for job in jobs):
            opened = await open_policy(settings.policy, settings.sampling)
            try:
                for job in jobs:
                    await _play_job(job, settings, opened, stream)
            finally:
                await opened.close()
    return [job.folder for job in jobs]


def _places(settings: EvalSettings, folder: Path) -> list[tuple[str, Path]]:
    """Return each task set, and the folder of its run."""
    if len(settings.tasks) < 2:
        return [((*settings.tasks, "")[0], folder)]
    return [(tasks, folder / folder_name(tasks)) for tasks in settings.tasks]


def _prepare(settings: EvalSettings, tasks: str, folder: Path) -> Job:
    """Load a task set, and say what its run would be if it began now."""
    arguments = dict(settings.env_kwargs)
    if tasks:
        name, given, path = tasks.partition("=")
        arguments |= {"tasks": name, **({"tasks_path": path} if given else {})}
    if settings.split is not None:
        arguments["split"] = settings.split
    arguments |= {"max_tool_calls": settings.max_tool_calls, "max_tokens": settings.sampling.max_tokens}
    env = make_envs(settings.environment, 1, arguments)[0]
    chosen = env.tasks
    if settings.task_ids:
        chosen = TaskSet([chosen.get(task) for task in settings.task_ids], chosen.name)
    if settings.limit is not None:
        chosen = chosen[: settings.limit]
    manifest = make_manifest(settings, tasks, chosen, env.reward, {})
    return Job(folder, share_tasks(arguments, env.tasks), chosen, None, manifest, {})


def _look_up(job: Job) -> None:
    """Check that a run can go on, and find its samples; one killed right after the last of them is finished here."""
    samples, job.old = read_samples(job.folder), read_manifest(job.folder)
    if job.old is not None:
        continue_manifest(job.old, job.manifest, job.folder, [part for part in COMPARED if part != "policy"])
    elif samples:
        raise UsageError(
            f"{str(job.folder)!r} has samples, but no manifest that says of what. Fix: choose another folder."
        )
    job.done = {key: sample for key, sample in samples.items() if sample.score is not None}
    if job.old is not None and job.old["finished"] is None and not job.pending:
        job.manifest = job.old
        _finish(job)


async def _play_job(job: Job, settings: EvalSettings, opened: OpenPolicy, stream: TextIO | None) -> None:
    """Play a task set's pending samples; its manifest says at any time how far it is."""
    job.manifest["policy"] = as_plain(opened.described)
    if job.old is not None:
        job.manifest = continue_manifest(job.old, job.manifest, job.folder)
    if not (pending := job.pending):
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    write_manifest(job.folder, job.manifest)
    before, started = job.manifest["wall_seconds"], time.monotonic()
    progress = Progress(job.manifest["name"], job.total, job.done.values(), stream)
    writer = SampleWriter(job.folder)
    try:
        await _play_all(job, pending, settings, opened, writer, progress)
    finally:
        writer.close()
        progress.close()
        job.manifest["wall_seconds"] = round(before + time.monotonic() - started, 3)
        job.manifest["policy"] |= as_plain(opened.described)
        _finish(job)


def _finish(job: Job) -> None:
    """Write into the manifest what is known at the end: what the tools read from, and whether all was played."""
    samples = read_samples(job.folder).values()
    found: dict[str, set[str]] = {}
    for sample in samples:
        for name, value in sample.trajectory.get("sources", {}).items():
            found.setdefault(name, set()).add(value)
    # More than one value says that the corpus was exchanged under a run.
    job.manifest["sources"] = {name: " | ".join(sorted(values)) for name, values in sorted(found.items())}
    job.manifest["finished"] = now() if len(samples) >= job.total else None
    write_manifest(job.folder, job.manifest)


async def _play_all(
    job: Job,
    pending: Sequence[tuple[Task, int]],
    settings: EvalSettings,
    opened: OpenPolicy,
    writer: SampleWriter,
    progress: Progress,
) -> None:
    """Play samples on as many environments as may live at once; no episode waits for another."""
    arguments = {**job.arguments, "tokenizer": opened.tokenizer}
    if opened.counts_tokens:
        arguments["max_tokens"] = BYTES_A_TOKEN * settings.sampling.max_tokens
    envs = make_envs(settings.environment, min(settings.concurrency, len(pending)), arguments)
    queue, failures = iter(pending), _Failures()

    async def work(env: ToolEnv) -> None:
        for task, number in queue:
            sample = await _play_sample(env, policy, task, number, settings)
            await writer.append(sample)
            progress.add(sample)
            failures.count(sample)

    workers: list[asyncio.Task[None]] = []
    try:
        await envs[0].acheck_tasks(job.tasks)
        opened.attach(envs[0].dialect)
        policy = with_modules(opened.policy, settings.modules, envs[0].dialect)
        workers = [asyncio.create_task(work(env)) for env in envs]
        await asyncio.gather(*workers)
    finally:
        await _stop(workers, envs)


async def _stop(workers: Iterable[asyncio.Task[None]], envs: Iterable[ToolEnv]) -> None:
    """End workers, and close environments, all of them whichever fails."""
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    closed = await asyncio.gather(*(env.aclose() for env in envs), return_exceptions=True)
    for error in closed:
        if isinstance(error, BaseException):
            raise error


async def _play_sample(env: ToolEnv, policy: Policy, task: Task, number: int, settings: EvalSettings) -> Sample:
    """Play a sample, again if something outside the model failed."""
    seed = sample_seed(settings.sampling.seed, task.id, number)
    attempt = 1
    while True:
        try:
            played = await play(env, policy, task, seed=seed, index=number, max_seconds=settings.max_seconds)
        except InfrastructureError as error:  # no session could be started
            played = Trajectory(task, stop=StopReason.INFRASTRUCTURE, error=f"{type(error).__name__}: {error}")
        sample = await asyncio.to_thread(make_sample, played, number, seed)
        if sample.score is not None or attempt >= settings.attempts:
            return sample
        await asyncio.sleep(min(60.0, PAUSE * 2 ** (attempt - 1)))
        attempt += 1


class _Failures:
    """Stops a run in which nothing succeeds any more."""

    def __init__(self) -> None:
        self._row = 0

    def count(self, sample: Sample) -> None:
        """Count a sample; raise ``InfrastructureError`` after too many failures in a row."""
        self._row = self._row + 1 if sample.score is None else 0
        if self._row >= FAILURES:
            raise InfrastructureError(
                f"{self._row} samples in a row failed outside the model, the last with: "
                f"{sample.trajectory.get('error')}. Nothing is lost. Fix: mend the cause, then repeat the command, "
                "which goes on and plays the failed ones again; `aster eval report` shows what there is."
            )
