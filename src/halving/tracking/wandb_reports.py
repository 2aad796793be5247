"""Offline runs of W&B read back, and reports published from a plain specification: wandb-workspaces is only here."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from halving.errors import UserError
from halving.tracking.runs import FIGURE, Mirrored
from halving.tracking.wandb import end_service
from halving.tracking.wandb_runs import staged

RUNS = 1000  # that a panel shows at most; W&B's own default is 10


def mirrored(run_dir: Path) -> list[Mirrored]:
    """Return the runs of a study as W&B's own reader finds them in its run directory.

    Raises UserError for one that it cannot read.
    """
    files = sorted((run_dir / "wandb").glob("*run-*/run-*.wandb"))
    with ThreadPoolExecutor(4) as readers:
        return list(readers.map(_read, files))


def _read(file: Path) -> Mirrored:
    from wandb.util import get_core_path

    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    run = next((record["run"] for record in records if record["type"] == "run"), None)
    if run is None:
        raise UserError(f"{file}: W&B cannot read this run; `halving study rebuild` makes it anew")
    summary: dict[str, Any] = {}
    for record in records:
        if record["type"] == "summary":
            summary |= record["summary"].get("update", {})
    summary |= {name.removesuffix("._type"): name for name in summary if name.endswith("._type")}  # pictures, tables
    return Mirrored(
        attributes={
            "ID": run["run_id"],
            "Name": run.get("display_name", ""),
            "JobType": run.get("job_type", ""),
            "Group": run.get("run_group", ""),
        },
        config=run["config"]["update"],
        summary=summary,
        history=[record["history"]["item"] for record in records if record["type"] == "history"],
        project=run.get("project", ""),
        entity=run.get("entity", ""),
        files=file.parent / "files",
        staged=tuple(
            Path(entry["local_path"])
            for record in records
            if record["type"] == "artifact"
            for entry in record["artifact"].get("manifest", {}).get("contents", ())
            if "local_path" in entry
        ),
    )


def publish(report: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
    """Save a report and a view of its runs in W&B; return their ids and addresses, to be `known` the next time.

    `report` is a plain `halving.report.wandb_report.Report`. What is known is updated, anything else made.

    Raises UserError without wandb-workspaces, without a key, and where W&B is away or refuses.
    """
    import wandb

    reports, workspaces = _workspaces("reports.v2"), _workspaces("workspaces")
    quiet = wandb.Settings(silent=True, quiet=True)
    wandb.termsetup(quiet, None)
    wandb.setup(quiet)
    with _refusals():
        if not wandb.login(prompt=False, verify=False):
            raise UserError("publishing needs W&B's key on this machine: `wandb login` sets one")
        entity = str(report["entity"] or wandb.Api().default_entity)
        where = f"{entity}/{report['project']}"
        known = known if known.get("project") == where else {}
        view = workspaces.Workspace(
            entity=entity,
            project=report["project"],
            name=_ascii(report["title"]),
            sections=_sections(report, workspaces),
            settings=workspaces.WorkspaceSettings(max_runs=RUNS),
            runset_settings=workspaces.RunsetSettings(filters=_filters(_every(report))),
        )
        view._internal_id, view._internal_name = known.get("view", ""), known.get("view_name", "")
        written = reports.Report(
            project=report["project"],
            entity=entity,
            title=report["title"],
            description=report["description"],
            width="fluid",
            blocks=[_block(block, report, entity) for block in report["blocks"]],
        )
        written.id = known.get("report", "")
        if report["figure"]:
            _hold_figure(report, entity)
        written.save()
        view.save()
    return {
        "project": where,
        "report": written.id,
        "url": written.url,
        "view": view._internal_id,
        "view_name": view._internal_name,
        "view_url": view.url,
    }


def _workspaces(module: str) -> Any:
    try:
        return import_module(f"wandb_workspaces.{module}")
    except ImportError as error:
        raise UserError("publishing needs wandb-workspaces: pip install 'halving[report]'") from error


@contextmanager
def _refusals() -> Iterator[None]:
    """Say in a line what W&B did not do, whichever of its parts says so, and let nothing wait for it any more."""
    try:
        yield
    except UserError:
        raise
    except KeyboardInterrupt:
        end_service()
        raise
    except Exception as error:  # its errors share no class, and come from what it uses, too
        end_service()
        if isinstance(error, ValueError) and "not found" in str(error):
            raise UserError(f"{str(error).partition('. ')[0]}: upload the runs first, by `wandb sync`") from error
        raise UserError(f"W&B did not take the report: {type(error).__name__}: {error}".split("\n", 1)[0]) from error


def _hold_figure(report: Mapping[str, Any], entity: str) -> None:
    """Upload our figure to a run of its own, since a report shows only pictures that W&B has."""
    import wandb

    settings = wandb.Settings(console="off", silent=True, quiet=True, x_disable_meta=True, x_disable_stats=True)
    settings.finish_timeout = 60.0
    with TemporaryDirectory() as written, staged(Path(written)):
        run = wandb.init(
            id=report["figure_run"], resume="allow", project=report["project"], entity=entity, name=report["title"],
            job_type="comparison", config={"studies": list(report["studies"])}, mode="online", reinit="create_new",
            dir=written, settings=settings,
        )  # fmt: skip
        run.log({FIGURE: wandb.Image(report["figure"])})
        run.finish()


def _block(block: Mapping[str, Any], report: Mapping[str, Any], entity: str) -> Any:
    reports = _workspaces("reports.v2")
    match block["block"]:
        case "heading":
            return reports.H2(block["text"])
        case "text":
            return reports.MarkdownBlock(block["text"])
        case "code":  # it knows no shell
            return reports.CodeBlock(block["text"], language="markdown")
        case _:
            sets = [_run_set(each, report, entity) for each in block["run_sets"]]
            colours = {
                reports.RunsetGroup(
                    each["name"], (reports.RunsetGroupKey(reports.Config(each["group_by"]), value),)
                ): each["colours"][""]
                for each in block["run_sets"]
                if each["group_by"]
                for value in [each["group_value"]]
            }
            panels = [_panel(panel) for panel in block["panels"]]
            return reports.PanelGrid(runsets=sets, panels=panels, custom_run_colors=colours)


def _run_set(each: Mapping[str, Any], report: Mapping[str, Any], entity: str) -> Any:
    reports = _workspaces("reports.v2")
    order = [reports.OrderBy(_key(each["order"]), each["ascending"])] if each["order"] else []
    colours = {} if each["group_by"] else each["colours"]
    return reports.Runset(
        entity=entity,
        project=report["project"],
        name=each["name"],
        filters=_filters(each["conditions"]),
        groupby=[f"config.{each['group_by']}"] if each["group_by"] else [],
        run_settings={run: reports.RunSettings(color=colour) for run, colour in colours.items()},
        pinned_columns=["run:displayName", *map(_column, each["columns"])] if each["columns"] else [],
        **({"order": order} if order else {}),
    )


def _filters(conditions: Any) -> list[Any]:
    expr = _workspaces("expr")
    makers = {"config": expr.Config, "summary": expr.Summary, "run": expr.Metric}
    made: list[Any] = []
    for each in conditions:
        key, values = makers[each["key"]["where"]](each["key"]["name"]), list(each["values"])
        made.append(key == values[0] if len(values) == 1 else key.isin(values))
    return made


def _every(report: Mapping[str, Any]) -> list[Any]:
    return [{"key": {"where": "config", "name": "study"}, "values": report["studies"]}]


def _panel(panel: Mapping[str, Any]) -> Any:
    reports = _workspaces("reports.v2")
    x, y, width, height = panel["place"]
    common = {"layout": reports.Layout(x=x, y=y, w=width, h=height)}
    titled = {"title": panel["title"], **common}
    names = [key["name"] for key in panel["keys"]]
    match panel["kind"]:
        case "lines":
            bold = {f"{panel['bold']}:{name}": 4.0 for name in names} if panel["bold"] else None
            grouped = {"groupby": "method", "groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
            return reports.LinePlot(
                x=panel["x"]["name"], y=names, log_y=panel["log_y"] or None, max_runs_to_show=RUNS,
                line_widths=bold, smoothing_type="none", **titled, **(grouped if panel["grouped"] else {}),
            )  # fmt: skip
        case "scatter":
            keys = _key(panel["x"]), _key(panel["keys"][0])
            return reports.ScatterPlot(x=keys[0], y=keys[1], log_x=panel["log_x"] or None, **titled)
        case "parallel":
            columns = [
                reports.ParallelCoordinatesPlotColumn(_key(key), log=key["name"] in panel["log_keys"] or None)
                for key in panel["keys"]
            ]
            return reports.ParallelCoordinatesPlot(columns=columns, **titled)
        case "importance":
            return reports.ParameterImportancePlot(with_respect_to=names[0], **common)
        case "comparer":
            return reports.RunComparer(diff_only="split", **common)
        case "table":
            return reports.WeavePanelSummaryTable(table_name=names[0], **common)
        case _:
            return reports.MediaBrowser(media_keys=names, num_columns=1, **titled)


def _key(key: Mapping[str, str]) -> Any:
    reports = _workspaces("reports.v2")
    kinds = {"config": reports.Config, "summary": reports.SummaryMetric}
    return kinds.get(key["where"], reports.Metric)(key["name"])


def _column(key: Mapping[str, str]) -> str:
    if key["where"] != "config":
        return f"{key['where']}:{key['name']}"
    first, dot, rest = key["name"].partition(".")
    return f"config:{first}.value{dot}{rest}"


def _sections(report: Mapping[str, Any], workspaces: Any) -> list[Any]:
    """Return the panels of a view without groups: what runs themselves hold, for whoever looks further."""
    grids = [block for block in report["blocks"] if block["block"] == "grid"]
    return [
        workspaces.Section(
            name=grid["name"], is_open=True, panels=[_panel({**panel, "grouped": False}) for panel in grid["panels"]]
        )
        for grid in grids
    ]


def _ascii(title: str) -> str:
    """Return a name as views take it: without pictures."""
    return title.encode("ascii", "replace").decode()
