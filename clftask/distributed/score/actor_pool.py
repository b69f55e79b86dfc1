"""An elastic pool of scoring actors; shards of a lost actor go to another one."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import ray

from clftask import garbage, logs
from clftask.distributed.actor_names import named
from clftask.distributed.capacity import WorkerPlan, capacity
from clftask.distributed.ray_errors import is_node_loss, reason_of
from clftask.distributed.score.dispatcher import Dispatcher
from clftask.errors import AccessError, ClftaskError, ConfigError, DataError, JobError, Problem
from clftask.io.tempdirs import temporary_folder
from clftask.models.cascade import Opener, as_one, fetch
from clftask.scoring.manifest import Agreement, Shard
from clftask.scoring.table_store import ScoreTableStore
from clftask.scoring.worker import Done, Failure, ScoreWork

MAX_DEATHS = 3  # per worker, while no worker is busy
MAX_FAILURES = 10  # per worker: consecutive shards that fail at their first attempt
MAX_NODES = 5  # lost nodes that started with the same shard; then the shard is at fault
WAIT_S = 60.0
LOOK_S = 10.0  # between checks for new nodes
POLL_S = 1.0
_log = logging.getLogger(__name__)


class ScoreActor:
    """Ray actor that holds a bundle's model on one device."""

    def __init__(self, work: ScoreWork, cpus: float) -> None:
        self.work, self.cpus = work, cpus
        self.opener: Opener | None = None
        garbage.collect_rarely()
        # Now: the other actors of a new table wait until the first has chosen the precision.
        if not work.meta.is_linear:
            importlib.import_module("clftask.models.predictor")

    def agree(self) -> Agreement | ClftaskError:
        """Choose what a new table's workers share; return a user error instead of raising it."""
        from clftask.scoring.cascade import agree

        self.opener, work = self._opener(), self.work
        try:
            return agree(work.job, work.plan, self.opener)
        except (ConfigError, DataError, AccessError, JobError) as error:
            return error

    def load(self, agreed: ScoreWork | None = None) -> ClftaskError | None:
        """Open the bundle; return a user error instead of raising it.

        Args:
            agreed: The work whose plan is stored, if the actor was started before.
        """
        self.work = agreed or self.work
        try:
            self._refuse_other_disk()
            self.scorer = self._open()
        except (ConfigError, DataError, AccessError) as error:
            return error
        return None

    def _refuse_other_disk(self) -> None:
        """Refuse a local output path that is not on a disk shared with the driver."""
        plan = ScoreTableStore(self.work.job.output.path).plan()
        if plan is None or plan.fingerprint != self.work.plan.fingerprint:
            allowed = "does not exist on a worker's node"
            remedy = "Use S3 or a disk that all nodes share."
            raise ConfigError(Problem("output.path", self.work.job.output.path, allowed, remedy))

    def _prepare(self) -> str:
        """Prepare the process; return its device."""
        logs.quiet_libraries()
        self._use_cpus()
        logs.work_on("score", self.work.job.output.path)
        return "cuda" if ray.get_gpu_ids() else "cpu"

    def _opener(self) -> Opener:
        device = self._prepare()
        return Opener(device, num_token_processes(device, self.cpus))

    def _use_cpus(self) -> None:
        """Limit the threads of torch; OpenMP's limit is one of each thread that computes."""
        if self.work.meta.is_linear:
            return
        import torch

        torch.set_num_threads(max(1, int(self.cpus)))

    def _open(self) -> Any:
        from clftask.scoring.worker import ShardScorer

        opener, job, plan = self.opener or self._opener(), self.work.job, self.work.plan
        with temporary_folder() as scratch:
            found = fetch(job, scratch)
            if as_one(job, [one.meta for one in found]).fingerprint != self.work.meta.fingerprint:
                paths = ", ".join(job.bundles.values())
                raise ConfigError(Problem("bundle", paths, "changed while the job ran"))
            scorer = opener.open_all(found, plan.used_precision, plan.cascade)
        self.opener = None  # of a cascade, it may keep a bundle that is not used
        _log.info("model loaded on %s in %s", opener.device, plan.used_precision)
        return ShardScorer(self.work, scorer)

    def run(self, shards: list[Shard], rows_ahead: int) -> Iterator[Done | Failure]:
        """Score a batch; see `ShardScorer.run`."""
        self._use_cpus()
        yield from self.scorer.run(shards, rows_ahead)


def num_token_processes(device: str, cpus: float) -> int:
    """Return how many processes of a worker tokenise; 0: a thread does.

    A GPU is fed by all CPUs but two. On CPUs the model takes 20 times as long as tokenising.
    """
    return int(cpus) - 2 if device == "cuda" and cpus >= 4 else 0


@dataclass
class ShardBatch:
    """The batch of a busy actor; `shards`: those without a result yet, by number."""

    actor: Any
    shards: dict[int, Shard]


class Pool:
    """Starts actors while shards are waiting, and gives them batches.

    An actor that begins the last shard of its batch gets the next one: it reads while it computes.

    It requests all actors at once: Ray starts as many as fit the cluster, and the pending ones
    make an autoscaler add nodes.
    """

    def __init__(self, work: ScoreWork, chosen: WorkerPlan, say: Callable[[str], None]) -> None:
        resources = {"num_cpus": chosen.cpus_per_worker, "num_gpus": chosen.gpus}
        self.actor_class = ray.remote(**resources, max_concurrency=2)(ScoreActor)
        self.chosen, self.work = chosen, ray.put(work)
        self.output, self.numbers = work.job.output.path, itertools.count()
        self.created: list[Any] = []  # do not load anything yet
        self.starting: dict[Any, Any] = {}
        self.busy: dict[Any, ShardBatch] = {}
        self.idle: list[Any] = []
        self.num_deaths, self.num_failures = 0, 0
        self.has_done = False
        self.lost_with: Counter[int] = Counter()
        self.say, self.idle_since = say, time.monotonic()
        self.looked = time.monotonic()

    def agree(self, num_shards: int) -> Agreement:
        """Let the first actor choose what a new table's workers share, while the others start.

        Raises:
            ClftaskError: The user error that the actor found.
            JobError: Workers keep dying.
        """
        while True:
            for _ in range(max(1, min(self.chosen.workers, num_shards)) - len(self.created)):
                self.created.append(self._create())
            actor = self.created[0]
            is_there, reference = actor.__ray_ready__.remote(), actor.agree.remote()
            try:
                while not ray.wait([is_there], timeout=POLL_S)[0]:
                    self._report_waiting()
                found: Agreement | ClftaskError = ray.get(reference)
            except Exception as error:  # the actor died, or its node
                self._remove(self.created.pop(0), error)
                continue
            if isinstance(found, ClftaskError):
                raise found
            return found

    def use(self, work: ScoreWork) -> None:
        """Load the model on all actors, now that the plan is stored."""
        self.work, self.idle_since = ray.put(work), time.monotonic()
        for actor in self.created:
            self.starting[actor.load.remote(self.work)] = actor
        self.created = []

    def done(self, dispatcher: Dispatcher) -> Iterator[Done]:
        """Yield finished shards until none is waiting and no actor is busy.

        Raises:
            JobError: Workers keep dying, or an error ends the job.
        """
        while dispatcher.waiting or self.busy:
            self._grow(len(dispatcher.waiting))
            self._feed(dispatcher)
            self._report_waiting()
            heard, _ = ray.wait([*self.starting, *self.busy], timeout=POLL_S)
            for reference in heard:
                if reference in self.starting:
                    self._on_ready(reference)
                else:
                    yield from self._on_result(reference, dispatcher)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all actors, also the pending ones."""
        actors = [shard_batch.actor for shard_batch in self.busy.values()]
        for actor in [*self.created, *self.starting.values(), *self.idle, *actors]:
            with contextlib.suppress(Exception):  # an error that ended the job matters more
                ray.kill(actor)

    @property
    def num_busy(self) -> int:
        """The number of actors with a batch."""
        return len({id(shard_batch.actor) for shard_batch in [*self.busy.values()]})

    def _look(self) -> None:
        """Raise the number of workers if nodes have joined."""
        if self.chosen.more and time.monotonic() - self.looked > LOOK_S:
            self.looked = time.monotonic()
            self.chosen = self.chosen.widened(capacity())

    def _grow(self, num_waiting: int) -> None:
        self._look()
        num_wanted = min(self.chosen.workers, num_waiting + self.num_busy)
        num_there = len(self.starting) + len(self.idle) + self.num_busy
        for _ in range(num_wanted - num_there):
            actor = self._create()
            self.starting[actor.load.remote()] = actor

    def _create(self) -> Any:
        name = named("score", self.output, next(self.numbers))
        return self.actor_class.options(**name).remote(self.work, self.chosen.cpus_per_worker)

    def _report_waiting(self) -> None:
        if self.busy:
            self.idle_since = time.monotonic()
        elif time.monotonic() - self.idle_since > WAIT_S:
            self.idle_since = math.inf  # once
            self.say(f"waiting for cluster resources: {self.chosen}")

    def _on_ready(self, reference: Any) -> None:
        actor = self.starting.pop(reference)
        try:
            refusal = ray.get(reference)
        except Exception as error:  # Ray wraps every exception of an actor
            self._remove(actor, error)
            return
        if refusal is None:
            self.idle.append(actor)
        elif self.has_done:  # only this node is at fault: other actors opened the bundle
            self._remove(actor, JobError(*refusal.problems))
        else:
            ray.kill(actor)
            raise JobError(*refusal.problems)

    def _feed(self, dispatcher: Dispatcher) -> None:
        ready = [*self.idle, *self._finishing()]
        if not ready:  # the usual case; the sum below visits all waiting shards
            return
        rows_ahead = sum(shard.num_rows for shard in dispatcher.waiting) // self.chosen.workers
        num_idle = len(self.idle)
        for i, actor in enumerate(ready):
            # The last shards are left to the actor that is idle first.
            is_soon = i >= num_idle and len(dispatcher.waiting) <= self.chosen.workers
            if is_soon or not (shards := dispatcher.next()):
                return
            generator = actor.run.options(num_returns="streaming").remote(shards, rows_ahead)
            self.busy[generator] = ShardBatch(actor, {shard.index: shard for shard in shards})
            self.idle = [other for other in self.idle if other is not actor]

    def _finishing(self) -> list[Any]:
        """Return the actors that compute the last shard of their only batch.

        A shard is heard of when the next one is computed: then the last of three begins.
        """
        actors = [b.actor for b in self.busy.values() if len(b.shards) <= 2]
        return [actor for actor in actors if len(self._held_by(actor)) == 1]

    def _held_by(self, actor: Any) -> list[Any]:
        """Return the generators of an actor's batches, the older one first."""
        return [generator for generator, b in self.busy.items() if b.actor is actor]

    def _on_result(self, generator: Any, dispatcher: Dispatcher) -> Iterator[Done]:
        shard_batch = self.busy.get(generator)
        if shard_batch is None:  # its actor died, and was heard of through its other batch
            return
        try:
            found = ray.get(next(generator))
        except StopIteration:
            self.busy.pop(generator)
            self.idle += [] if self._held_by(shard_batch.actor) else [shard_batch.actor]
            dispatcher.take_back([*shard_batch.shards.values()], None)
        except Exception as error:  # the actor died, or its node
            left = self._taken_from(shard_batch.actor)
            died = JobError(Problem("worker", None, f"died: {reason_of(error)}"))
            about = {"shards": [shard.index for shard in left]}
            _log.warning("a worker died with unfinished shards", extra=about)
            dispatcher.take_back(left, None if self._is_nodes_fault(error, left) else died)
            self._remove(shard_batch.actor, error)
        else:
            if isinstance(found, Done):
                shard_batch.shards.pop(found.shard, None)
                self.num_deaths, self.num_failures, self.has_done = 0, 0, True
                yield found
            else:
                self._judge(found, generator, dispatcher)

    def _judge(self, failure: Failure, generator: Any, dispatcher: Dispatcher) -> None:
        """Return a failed batch to the dispatcher, the failed shard first."""
        if failure.ends_job:
            raise JobError(*failure.error.problems)
        self.num_failures += not dispatcher.attempts[failure.shard]
        shard_batch = self.busy[generator]
        _log.warning("shard failed: %s", failure.error, extra={"shard": failure.shard})
        left, shard_batch.shards = shard_batch.shards, {}
        at_fault = [left.pop(failure.shard)] if failure.shard in left else []
        dispatcher.take_back([*at_fault, *left.values()], failure.error, failure.is_permanent)
        if self.num_failures > MAX_FAILURES * self.chosen.workers:
            raise JobError(*failure.error.problems)
        if isinstance(failure.error, JobError) and not failure.is_permanent:
            # The device may be unusable.
            dispatcher.take_back(self._taken_from(shard_batch.actor), None)
            self._remove(shard_batch.actor, failure.error)

    def _taken_from(self, actor: Any) -> list[Shard]:
        """Take its batches from an actor; return their unfinished shards in order."""
        batches = [self.busy.pop(generator) for generator in self._held_by(actor)]
        return [shard for batch in batches for shard in batch.shards.values()]

    def _is_nodes_fault(self, error: Exception, left: list[Shard]) -> bool:
        """Tell whether a node was lost for a reason other than the shard on it."""
        if getattr(error, "preempted", False) or not left:
            return is_node_loss(error)
        first = left[0].index
        self.lost_with[first] += is_node_loss(error)
        return is_node_loss(error) and self.lost_with[first] < MAX_NODES

    def _remove(self, actor: Any, error: Exception) -> None:
        """Kill an actor; raise JobError if actors keep dying."""
        with contextlib.suppress(Exception):
            ray.kill(actor)
        self.num_deaths += not is_node_loss(error)
        _log.warning("lost a worker: %s", reason_of(error))
        most = MAX_FAILURES if self.busy else MAX_DEATHS
        if self.num_deaths > most * self.chosen.workers:
            raise JobError(Problem("worker", None, f"workers keep dying: {reason_of(error)}"))
