"""Mistakes on the command line become one message and exit status 1; bugs keep their traceback."""

import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import wraps
from importlib.metadata import version
from itertools import dropwhile
from pathlib import Path
from traceback import walk_tb
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from halving.checkpoints.links import refuse
from halving.config import commands, multirun, once, schema, trust
from halving.config.arguments import config_paths, directories, placed, read, remember
from halving.config.resumption import register_resolvers, repeat
from halving.config.suggestions import nearest, nearest_option
from halving.config.yaml_files import redact_files
from halving.environment import wait_briefly
from halving.errors import UserError, first_line, last_line
from halving.journal import FILE
from halving.redaction import Secrets
from halving.tracking.terminal import coming, one_line, printable

log = logging.getLogger(__name__)

_REFUSALS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "; make room"),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR), "; give another hydra.run.dir"
    ),
}
_FULL_ERROR = "HYDRA_FULL_ERROR"
_PACKAGE = Path(__file__).parents[1]
_ended: list[int] = []  # how a signal ended a job: a launcher may begin others in its process
_theirs: list[str] = []  # config directories that were typed
_UNKNOWN_KEY = re.compile(r"is not in struct|Key '.*' not in '")


def command_line(conf: Path, recorded: Sequence[str] = ()) -> Callable[[Callable[[], Any]], Callable[[], None]]:
    """Wrap a `hydra.main` function; `conf` stays on the search path wherever `-cp` points.

    What is `recorded` of an earlier command comes before what is typed, and lets nothing be trusted.
    Exits with 1 after a mistake, with 130 after Ctrl-C; raises what is a bug.
    """
    register(conf)
    once.compose_once()

    def wrap(main: Callable[[], Any]) -> Callable[[], None]:
        @wraps(main)
        def run() -> None:
            before = os.environ.get(_FULL_ERROR)
            os.environ[_FULL_ERROR] = "1"
            trust.remember()
            wait_briefly()
            logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
            if not os.environ.get("HALVING_DATA"):  # set to nothing is not set
                os.environ.pop("HALVING_DATA", None)
            with one_line():
                try:
                    remember()
                    sys.argv[1:] = repeat(read([*recorded, *sys.argv[1:]]))
                    _theirs[:] = directories(sys.argv[1:])
                    for place in map(Path, config_paths(sys.argv[1:])):
                        if (place / FILE).is_file():  # a study, of which best.yaml will be read
                            refuse(place, written=False)
                            trust.check_best(place)
                    if "--version" in sys.argv[1:]:
                        print("halving", version("halving"))  # before Hydra's own
                    main()
                except KeyboardInterrupt:
                    sys.exit(130)
                except BrokenPipeError:
                    raise
                except Exception as error:
                    if _is_interrupt(error):
                        sys.exit(130)
                    if not isinstance(error, UserError) and _is_ours(error):
                        raise
                    secrets = Secrets.of({}, sys.argv[1:])
                    sys.exit(printable(f"error: {secrets.redact(_explained(error))}"))
                finally:
                    if before is None:
                        del os.environ[_FULL_ERROR]
                    else:
                        os.environ[_FULL_ERROR] = before
                    multirun.print_table()

        return run

    return wrap


def job(task: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Wrap what a job runs: a mistake ends a single run at once; in a multirun it is noted and the other jobs go on."""

    @wraps(task)
    def run(cfg: DictConfig) -> None:
        alone = HydraConfig.get().mode == RunMode.RUN  # a multirun says by itself what it is about
        with coming("loading torch and the data ...") if alone else nullcontext():
            attempt(cfg)

    def attempt(cfg: DictConfig) -> None:
        if _ended:
            sys.exit(_ended[0])
        multirun.forget_failure()
        trust.let_in(HydraConfig.get().runtime.cwd)
        secrets = _kept_out(cfg)
        try:
            task(cfg)
        except UserError as error:
            if error.__cause__ is not None:
                log.error("%s", error, exc_info=error.__cause__)
            message = printable(secrets.redact(str(error)))
            multirun.note_failure(message)
            if HydraConfig.get().mode == RunMode.RUN:
                sys.exit(f"error: {message}")
            raise
        except OSError as error:
            remedy = _REFUSALS.get(error.errno or 0)
            message = f"cannot write {error.filename or 'to the disk'}: {error.strerror}{remedy or ''}"
            message = secrets.redact(message)
            if remedy is None or HydraConfig.get().mode != RunMode.RUN:
                multirun.note_failure(message)
                raise
            log.error("%s", message, exc_info=error)
            sys.exit(printable(f"error: {message}"))
        except SystemExit as error:
            if error.code:
                if isinstance(error.code, int) and HydraConfig.get().mode == RunMode.MULTIRUN:
                    _ended.append(error.code)
                raise
            message = "something that the study is built of has called sys.exit()"
            multirun.note_failure(message)
            raise RuntimeError(message) from error
        except Exception as error:
            if _is_interrupt(error):
                raise KeyboardInterrupt from error
            multirun.note_failure(secrets.redact(f"{type(error).__name__}: {error}"))
            raise

    return run


class RedactingFilter(logging.Filter):
    """Takes known secrets and control characters out of what is logged, tracebacks too; for a handler."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._secrets.redact(printable(record.getMessage())), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._secrets.redact(printable(record.exc_text))
        return True


def _kept_out(cfg: DictConfig) -> Secrets:
    """Return the secrets of a job, which from now on are in none of its logs and in none of Hydra's own files."""
    from halving.config import trials  # with numpy, which a mere look at the config can do without

    hydra = commands.hydra_config()
    try:
        config = trials.plain(cfg)
    except OmegaConfBaseException:  # it will be refused
        config = {}
    secrets = Secrets.of(config, commands.overrides(hydra))
    for handler in logging.getLogger().handlers:
        handler.addFilter(RedactingFilter(secrets))
    held = [OmegaConf.to_container(each) for each in (cfg, hydra)]  # what its files say, which take long to read
    if hydra.output_subdir is not None and secrets.redact(held) != held:
        own = Path(hydra.runtime.output_dir) / hydra.output_subdir
        redact_files(secrets, *(own / f"{name}.yaml" for name in ("config", "hydra", "overrides")))
    return secrets


def register(conf: Path) -> None:
    """Keep `conf` on the search path, behind the directories that were typed.

    Configs name what lies beside it as `${repository:...}`, or, if that is no checkout, what lies where one typed.
    """

    class KeepConf(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            search_path.append("halving", f"file://{conf}")
            ours = next(each for each in search_path.get_path() if str(each.path).removeprefix("file://") == str(conf))
            for path in _theirs:
                search_path.prepend("typed", path, SearchPathQuery(str(ours.provider)))

    Plugins.instance().register(KeepConf)
    checkout = (conf.parent / "train.py").is_file()
    OmegaConf.register_new_resolver(
        "repository", lambda path: str(conf.parent / path if checkout else placed(path)), replace=True
    )
    OmegaConf.register_new_resolver("program", commands.line, replace=True)
    OmegaConf.register_new_resolver("first_level", _first_level, replace=True)
    OmegaConf.register_new_resolver("last_level", _last_level, replace=True)
    register_resolvers()


def _first_level(curves: str) -> int:
    from halving.curves.table import first_level

    return first_level(curves)


def _last_level(curves: str, times: int = 1) -> int:
    from halving.curves.table import last_level

    return last_level(curves, times)


def _explained(error: Exception) -> str:
    """Say in one line what was wrong with the command line or a config file, and what was probably meant."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, MissingConfigException) and cause.options is not None:
            group, _, option = str(cause.missing_cfg_file).rpartition("/")
            return f"{group}={option}: no such option{nearest_option(option, cause.options)}"
        if isinstance(cause, OmegaConfBaseException) and cause.full_key and _UNKNOWN_KEY.search(str(cause)):
            root = cause.parent_node._get_root() if cause.parent_node is not None else OmegaConf.create()
            path = str(cause.full_key)
            return f"unknown key {path}{nearest(path, root if isinstance(root, DictConfig) else OmegaConf.create())}"
        if isinstance(cause, OverrideParseException):
            why = next(line for line in str(cause).splitlines() if not line.startswith("Error parsing override"))
            why = why if "=" in cause.override else "it is no option, and not written key=value"
            return f"cannot read the override {cause.override!r}: {why}"
    unknown = re.match(r"Could not override '([^']+)'", str(error))
    if unknown and "No match in the defaults list" in str(error):
        return f"{unknown[1]}: no such group{nearest_option(unknown[1], _groups())}"
    if detail := next((c for c in causes if isinstance(c, OmegaConfBaseException) and c.full_key), None):
        if first_line(detail).endswith("is not Optional"):
            return f"{detail.full_key}=null: it needs a value; leave it out for what it is otherwise"
        if found := re.search(r"is not a subclass of (\w+)\. value: (.*)", first_line(detail)):
            keys = ", ".join(f"{detail.full_key}.{each.name}=..." for each in fields(getattr(schema, found[1])))
            return f"{detail.full_key}={found[2]}: give the keys below it: {keys}"
        return f"{detail.full_key}: {first_line(detail)}"
    where = next((f"{file}: " for file in map(_config_file, reversed(causes)) if file), "")
    match error:
        case MissingConfigException() if first_line(error) == "Primary config directory not found.":
            return last_line(error)
        case OSError():
            return f"{error.filename}: {error.strerror}" if error.filename else first_line(error)
        case MarkedYAMLError() if error.problem_mark is not None:
            return f"{where}{error.problem} in line {error.problem_mark.line + 1}"
        case _:
            why = f": {first_line(error.__cause__)}" if isinstance(error.__cause__, ValueError | OSError) else ""
            told = first_line(error).rstrip(".")
            if told.startswith("Ambiguous value"):
                told += ": several values are for a multirun, with -m; a list is written key=[a,b]"
            return f"{where}{told}{why}"


def _config_file(error: BaseException) -> str | None:
    """Return the file that Hydra was reading."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__) if frame.f_code.co_name == "load_config")
    return next((frame.f_locals["full_path"] for frame in frames if "full_path" in frame.f_locals), None)


def _groups() -> tuple[str, ...]:
    from halving.config.schema import GROUPS

    return (*GROUPS, "experiment")


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def _is_interrupt(error: Exception) -> bool:
    """Whether Ctrl-C came while a compiled module was imported, which makes an ImportError of it."""
    return isinstance(error, ImportError) and any(isinstance(cause, KeyboardInterrupt) for cause in _causes(error))


def _is_ours(error: BaseException) -> bool:
    """Whether an error comes from a job, or is none of Hydra's and from this package, as Hydra called it."""
    codes = [frame.f_code for frame, _ in walk_tb(error.__traceback__)]
    files = [Path(code.co_filename) for code in codes]
    if any("hydra" in file.parts and code.co_name == "return_value" for code, file in zip(codes, files, strict=True)):
        return True
    called = dropwhile(lambda file: "hydra" not in file.parts, (file for file in files if file != Path(once.__file__)))
    known = isinstance(error, HydraException | OmegaConfBaseException)
    return not known and any(file.is_relative_to(_PACKAGE) for file in called)
