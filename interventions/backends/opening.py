"""A study is made ready: its options are checked, its data and its model opened, and the model's answers asked, all by its backend."""

import logging
from functools import partial

from interventions.backends.answering import ask_backend
from interventions.backends.running import choose
from interventions.models.loading import load
from interventions.models.vlm import Server, Vlm
from interventions.results.manifest import update_manifest
from interventions.results.store import check_writable
from interventions.study import opening
from interventions.study.answers import answer_all
from interventions.study.option_words import asked, defaults
from interventions.study.options import Options
from interventions.study.study import Study

log = logging.getLogger(__name__)


def prepare(options: Options, vlm: Vlm | None = None) -> Study:
    """Load (or take) the model, load or make the data set, and let the model answer it.

    Raises
    ------
    ModelError, SampleError, StoreError, ValueError
        Each says what is wrong and what to do.
    """
    check_options(options)
    check_writable(options.out)
    data = opening.load_data(options)
    study = opening.open_study(options, opening.wanted_part(options, vlm or open_model(options)), data)
    study.answers = answer_all(study.vlm, study.table, study.fingerprint, options.out, study.name, ask=partial(ask_backend, study))
    shared = {key: value for key, value in asked(options).items() if key in defaults(Options)}
    update_manifest(options.out, "studies", f"{study.vlm.name}/{study.name}", {"options": shared, "facts": opening.facts(study.vlm)})
    return study


def check_options(options: Options) -> None:
    """Raise, before any work, where an option cannot be used.

    Raises
    ------
    ValueError, BackendError
        Each says which, and what it may be.
    """
    opening.check_options(options)
    choose(options)  # raises where it cannot be used


def open_model(options: Options) -> Vlm:
    """The model of some options, with its weights or, for a remote host, without.

    Raises
    ------
    ModelError, SiteError
        See `load`.
    BackendError
        It cannot run on the host; says why.
    """
    if not options.backend.startswith("remote"):
        return load(options.model, options.device, options.dtype, options.revision)
    from interventions.backends.remote import DryRun, Host, RemoteServer

    if options.backend == "remote":
        server = RemoteServer(Host(options.remote.host, options.remote.wait_limit), options.out)
        vlm = load(options.model, revision=options.revision, server=server)
        _warn_of_ignored_options(options, server)
        return vlm
    vlm = load(options.model, options.device, options.dtype, options.revision)
    DryRun().meet(vlm)
    return vlm


def _warn_of_ignored_options(options: Options, server: Server) -> None:
    """Warn where a host's model is on another device, or in another number format, than the options say."""
    wanted = {"--dtype": (options.dtype, "float32", server.number_format), "--device": (options.device, "auto", server.device_type)}
    ignored = [f"{name} {asked}" for name, (asked, usual, used) in wanted.items() if asked.split(":")[0] not in (usual, used)]
    if ignored:
        log.warning("%s: the host has the model in %s on %s", " and ".join(ignored), server.number_format, server.device_type)
