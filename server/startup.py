"""From settings and an ensemble folder to a daemon that is ready to answer."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

from flexquant.engine.compute import AUTO, Compute, choose_compute, usable_cores
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import FlexQuantError, UsageError
from flexquant.engine.grammar import Grammars
from flexquant.engine.kv_cache import pages_for
from flexquant.engine.manifest import MANIFEST_NAME, modules_by_level
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.memory_needs import MemoryNeeds
from flexquant.engine.placement import HOST, CardUse, Placement
from flexquant.engine.prefix_cache import PAGE_TOKENS
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.chat_template import ChatTemplate
from flexquant.server.control_loop import Controller
from flexquant.server.controller.outlook import largest_step
from flexquant.server.controller.parameters import Parameters
from flexquant.server.counts import Counts
from flexquant.server.daemon_state import DaemonState, ServedModel
from flexquant.server.elastic_facade import ElasticFacade
from flexquant.server.elastic_state import Quality
from flexquant.server.engine_thread import EngineThread
from flexquant.server.memory_gate import MemoryGate
from flexquant.server.model_names import names_of
from flexquant.server.monitor import Monitor
from flexquant.server.probes.budget import BudgetProbe
from flexquant.server.probes.cuda import CudaProbe
from flexquant.server.probes.discover import Roots, discover
from flexquant.server.probes.machine import MachineProbe
from flexquant.server.probes.probe import Probe
from flexquant.server.settings import Settings
from flexquant.server.start_plan import Demand, Room, plan_start

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon, without its HTTP server."""

    state: DaemonState
    elastic_model: ElasticModel

    def close(self) -> None:
        """End control, computation and moves, and give all memory back; closing twice is allowed."""
        self.state.controller.stop()
        self.state.engine.stop("The daemon is stopping.")
        self.state.engine.join()
        self.elastic_model.close()


def make_monitor(settings: Settings, card: CardUse | None = None) -> Monitor:
    """The memory sources that the settings ask for; the tightest one counts.

    Args:
        settings: Of the daemon.
        card: Has memory of its own, in which the model lies: then that is what has to suffice, and not the host's.
    """
    probes: list[Probe]
    if settings.simulated_memory is not None:  # instead of the whole machine, its pressure and limits included
        probes = [MachineProbe(settings.simulated_memory, settings.simulated_pids)]
    elif card is not None:
        probes = [CudaProbe(card.memory)]
    else:
        probes = list(discover(Roots()))
    if settings.memory_budget is not None:
        probes.append(BudgetProbe(settings.memory_budget, anonymous_bytes if card is None else card.used))
    return Monitor(probes)


def make_parameters(settings: Settings) -> Parameters:
    """The numbers of the control law.

    Raises:
        UsageError: They contradict each other.
    """
    return Parameters.from_flags(
        profile=settings.profile,
        reserve_critical=settings.reserve_critical,
        reserve_low=settings.reserve_low,
        reserve_target=settings.reserve_target,
        reserve_high=settings.reserve_high,
        grow_window=settings.grow_window,
        cooldown=settings.cooldown,
        seed=os.getpid(),  # two daemons on one machine must not grow in step
    )


SERVER_BYTES: Final = 8 << 20
"""What HTTP, Python and the tokenizer still take after the start: 4.0 MiB of private memory beyond the registry's were
measured with the demo after 80 requests in 4 streams, 2.6 MiB with plain torch."""


def start(settings: Settings, folder: Path) -> Daemon:
    """Load the ensemble in `folder` where memory allows, and start to compute and to control.

    Raises:
        UsageError: Settings contradict each other or the model.
        InputError: The ensemble cannot be used.
        MemoryShortError: Not even its smallest position fits.
    """
    parameters = make_parameters(settings)
    ensemble = Ensemble.open(folder, verify=settings.verify)
    sequence = ensemble.sequence(_sequence_name(settings, ensemble))
    tokenizer = Tokenizer.open(ensemble.tokenizer_folder)
    compute, placement = choose_device(settings, ensemble)
    monitor = make_monitor(settings, placement.card)
    plan = plan_start(
        demand_of(ensemble, compute, settings.sequence),
        measure_room(monitor, parameters, sequence.footprint_bytes),
        context=settings.context,
        parallel=settings.parallel,
        pin=settings.pin,
        worst_position=settings.worst_position,
    )
    served = describe(settings, ensemble, tokenizer, plan.context, compute.name)
    log.info(
        "starting at position %d of %d, context %d tokens, room for %d tokens of all answers together now",
        plan.position,
        len(sequence.transitions),
        plan.context,
        plan.kept_tokens,
    )
    model = ElasticModel.load(
        ensemble,
        position=plan.position,
        sequence=settings.sequence,
        context=plan.context,
        # The gate decides what memory has room for; answers may take what others leave later. What is only kept for
        # later prompts must not fill that.
        kv_pages=pages_for(settings.parallel * plan.context),
        kept_pages=pages_for(plan.kept_tokens),
        compute=compute,
        placement=placement,
    )
    gate, counts = MemoryGate(), Counts()
    engine = EngineThread(
        model,
        tokenizer,
        parallel=settings.parallel,
        max_queue=settings.max_queue,
        timeout_s=settings.request_timeout,
        gate=gate,
        counts=counts,
    )
    quality = [Quality(found.perplexity, found.kl) for found in sequence.quality]
    facade = ElasticFacade(model, quality, lambda: engine.seconds_per_token, counts=counts)
    controller = Controller(
        facade,
        monitor,
        parameters,
        gate=gate,
        private_bytes=placement.private,
        pin=settings.pin,
        worst_position=settings.worst_position,
    )
    engine.start()
    controller.start()
    return Daemon(DaemonState(served, engine, controller, counts), model)


def choose_device(settings: Settings, ensemble: Ensemble) -> tuple[Compute, Placement]:
    """Who computes, and where the model lies for that.

    Raises:
        UsageError: The GPU that is asked for cannot be used, or there are no such kernels.
        UnsupportedModelError: The GPU that is asked for does not run the model's family.
    """
    # Imported late: machines without a GPU have no use for it.
    from flexquant.engine.exllamav2.limits import beyond_the_card
    from flexquant.engine.exllamav2.open import card_compute, card_is_there

    on_card = settings.device == "cuda"
    if settings.device == "auto" and settings.kernels == AUTO and card_is_there():
        why = beyond_the_card(ensemble)
        on_card = why is None
        if not on_card:
            log.warning("the GPU is not used: %s", why)
    if on_card:
        card = card_compute(keep_copies=settings.keep_copies)
        log.info("computing with %s on %s", card.name, card.card.name)
        return card, card.placement(ensemble)
    compute = choose_compute(settings.kernels, settings.threads)
    log.info("computing with %s on %d threads", compute.name, settings.threads or usable_cores())
    return compute, HOST


def _sequence_name(settings: Settings, ensemble: Ensemble) -> str | None:
    """The sequence that the settings ask for; None is the ensemble's own default.

    Raises:
        UsageError: The ensemble has no such sequence.
    """
    known = ensemble.manifest.sequences
    if settings.sequence is not None and settings.sequence not in known:
        raise UsageError(
            f"--sequence {settings.sequence}: {ensemble.folder} has none of that name",
            hint=f"It has {', '.join(known)}; flexquant-build --unit makes others.",
        )
    return settings.sequence


def demand_of(ensemble: Ensemble, compute: Compute, sequence: str | None = None) -> Demand:
    """What a model takes in memory, at every position of a sequence; of its default one if None."""
    needs = MemoryNeeds.of(ensemble, compute, sequence=sequence, context=0)
    working = SERVER_BYTES + needs.fixed + sum(needs.scratch.values())
    return Demand(
        weights=needs.mapped,
        # A step that grows holds the module twice for a moment.
        working=working + largest_step(needs.mapped),
        kv_page=needs.kv_page,
        page_tokens=PAGE_TOKENS,
        context=ensemble.config.context,
        working_per_token=needs.scratch_per_token,
        context_limit=ensemble.config.context_limit,
    )


def measure_room(monitor: Monitor, parameters: Parameters, footprints: Sequence[int]) -> Room:
    """Memory that may be taken now, by the tightest source.

    Raises:
        FlexQuantError: No source answers.
    """
    readings = monitor.read()
    if not readings.memory:
        raise FlexQuantError(f"the available memory cannot be measured: {readings.failures}")
    step = largest_step(footprints)
    reserves = [parameters.reserves(found.total, shared=found.shared, largest_step=step) for found in readings.memory]
    return Room(
        available=min(found.available for found in readings.memory),
        spare=min(found.available - kept.high for found, kept in zip(readings.memory, reserves, strict=True)),
    )


def describe(settings: Settings, ensemble: Ensemble, tokenizer: Tokenizer, context: int, kernels: str) -> ServedModel:
    """The model as clients see it.

    Raises:
        CheckpointError: Its chat template cannot be used.
    """
    manifest = ensemble.folder / MANIFEST_NAME
    name = ensemble.manifest.name
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()[:8]
    return ServedModel(
        id=name,
        aliases=(names_of(settings.model, name) | set(settings.alias)) - {name},
        created=int(manifest.stat().st_mtime),
        build="-".join([f"fq{version('flexquant')}", kernels, digest, *filter(None, [settings.sequence])]),
        context=context,
        vocab_size=ensemble.config.vocab_size,
        tokenizer=tokenizer,
        chat_template=ChatTemplate.of(tokenizer),
        modules_by_level=partial(modules_by_level, ensemble.manifest, ensemble.sequence(settings.sequence)),
        listed=tuple(dict.fromkeys([name, *settings.alias])),
        any_name=settings.accept_any_model,
        grammars=Grammars(tokenizer, ensemble.config.vocab_size, ensemble.config.eos_ids),
    )
