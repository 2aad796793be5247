"""A stand-in for W&B's server on loopback: as much of it as its client asks for, and what it was told, to look at.

It stands in for the protocol, not for the site: it draws nothing, and takes any report that is JSON.
"""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

KEY = "k" * 40
ENTITY = "our-team"


@dataclass
class Run:
    """A run as it arrived: what `UpsertBucket` said of it, and the lines of its files."""

    said: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    complete: bool = False

    @property
    def config(self) -> dict[str, Any]:
        return {key: item["value"] for key, item in json.loads(self.said["config"]).items() if key != "_wandb"}

    @property
    def history(self) -> list[dict[str, Any]]:
        return self.lines.get("wandb-history.jsonl", [])

    @property
    def summary(self) -> dict[str, Any]:
        return self.lines["wandb-summary.json"][-1]


@dataclass
class Artifact:
    """An artifact: PENDING until it is committed."""

    said: dict[str, Any]
    state: str = "PENDING"
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Server:
    """What W&B's server was told. Each request waits `latency` seconds, and all of them while `hanging` is set."""

    url: str = ""
    latency: float = 0.0
    hanging: threading.Event = field(default_factory=threading.Event)
    operations: Counter[str] = field(default_factory=Counter)
    unknown: list[str] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    projects: set[str] = field(default_factory=set)

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def run(self, suffix: str) -> Run:
        """Return the run whose id ends so."""
        (found,) = [run for name, run in self.runs.items() if name.endswith(f"-{suffix}")]
        return found

    def artifact(self, kind: str) -> Artifact:
        (found,) = [each for each in self.artifacts.values() if each.said["artifactTypeName"] == kind]
        return found

    def answer(self, operation: str, variables: dict[str, Any]) -> Any:
        """Answer one operation of GraphQL, or None to one that is not known."""
        self.operations[operation] += 1
        known: Mapping[str, Callable[[dict[str, Any]], Any]] = {
            "Viewer": lambda _: {"viewer": _viewer()},
            "GetDefaultEntity": lambda _: {"viewer": _viewer()},
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "RunResumeStatus": lambda _: {"model": {"bucket": None}},
            "ArtifactType": lambda _: {"project": {"artifact": None}},
            "GetProjects": self._projects,
            "ProjectInternalId": lambda said: {
                "project": _project(said["projectName"]) if said["projectName"] in self.projects else None
            },
            "UpsertBucket": self._upsert_bucket,
            "CreateRunFiles": self._create_run_files,
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": self._create_manifest,
            "CreateArtifactFiles": self._create_artifact_files,
            "CommitArtifact": self._commit,
            "upsertView": self._upsert_view,
            "UpsertView2": self._upsert_view,
        }
        if operation not in known:
            self.unknown.append(operation)
            return None
        return known[operation](variables.get("input", variables))

    def _projects(self, said: dict[str, Any]) -> Any:
        nodes = [
            {"node": _project(name) | {"createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None}}
            for name in self.projects
        ]
        return {"models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": nodes}}

    def _upsert_bucket(self, said: dict[str, Any]) -> Any:
        run = self.runs.setdefault(said["name"], Run())
        inserted = not run.said
        run.said |= {key: value for key, value in said.items() if value is not None}
        project = run.said.get("project") or "uncategorized"
        self.projects.add(project)
        bucket = {
            "id": said["name"], "name": said["name"], "displayName": run.said.get("displayName") or said["name"],
            "description": "", "config": run.said.get("config"), "sweepName": None, "historyLineCount": 0,
            "project": {"id": "p", "name": project, "entity": {"id": "e", "name": ENTITY}},
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _create_run_files(self, said: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.url}/put/run/{said['run']}/{name}"} for name in said["files"]]
        return {"createRunFiles": {"runID": said["run"], "uploadHeaders": [], "files": files}}

    def _create_artifact(self, said: dict[str, Any]) -> Any:
        name = f"artifact-{len(self.artifacts)}"
        self.artifacts[name] = Artifact(said)
        sequence = {"id": f"sequence-{name}", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": name, "state": "PENDING", "artifactSequence": sequence}}}

    def _create_manifest(self, said: dict[str, Any]) -> Any:
        name = said["artifactID"]
        address = f"{self.url}/put/artifact/{name}/{said['name']}"
        file = {"id": "f", "name": said["name"], "displayName": said["name"], "uploadUrl": address, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"manifest-{name}", "file": file}}}

    def _create_artifact_files(self, said: dict[str, Any]) -> Any:
        nodes = [
            {
                "id": "f", "name": each["name"], "displayName": each["name"], "uploadHeaders": [],
                "uploadUrl": f"{self.url}/put/artifact/{each['artifactID']}/{each['name']}",
                "uploadMultipartUrls": None, "storagePath": None, "artifact": {"id": each["artifactID"]},
            }
            for each in said["artifactFiles"]
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _commit(self, said: dict[str, Any]) -> Any:
        artifact = self.artifacts[said["artifactID"]]
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": said["artifactID"], "digest": artifact.said["digest"]}}}

    def _upsert_view(self, said: dict[str, Any]) -> Any:
        name = said.get("id") or f"view-{len(self.views)}"
        inserted = name not in self.views
        self.views[name] = said | {"spec": json.loads(said["spec"])}
        view = {
            "id": name, "type": said["type"], "name": said["name"], "displayName": said["displayName"],
            "description": said.get("description") or "", "project": _project(said["projectName"]),
            "spec": said["spec"], "updatedAt": "2026-01-01T00:00:00",
        }  # fmt: skip
        return {"upsertView": {"view": view, "inserted": inserted}}

    def stream(self, run: str, said: dict[str, Any]) -> None:
        """Take in what a run streams: lines of its files, from an offset on."""
        into = self.runs.setdefault(run, Run())
        for name, part in said.get("files", {}).items():
            lines = into.lines.setdefault(name, [])
            lines[part["offset"] :] = [json.loads(line) for line in part["content"] if line.startswith("{")]
        into.complete |= bool(said.get("complete"))

    def put(self, path: str, content: bytes) -> None:
        _, kind, name, file = path.lstrip("/").split("/", 3)
        into = self.runs[name].files if kind == "run" else self.artifacts[name].files
        into[unquote(file)] = content


def _viewer() -> dict[str, Any]:
    return {
        "id": "v", "entity": ENTITY, "defaultEntity": {"id": "e", "name": ENTITY}, "username": "someone", "name": "S.",
        "email": "s@example.org", "admin": False, "flags": "{}", "teams": {"edges": [{"node": {"name": ENTITY}}]},
        "deletedAt": None, "apiKeys": {"edges": []},
    }  # fmt: skip


def _project(name: str) -> dict[str, Any]:
    return {"id": "p", "internalId": "internal", "name": name, "entityName": ENTITY}


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that hangs up."""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            path = urlsplit(self.path).path
            if path == "/graphql":
                said = json.loads(body)
                found = re.search(r"(?:query|mutation)\s+(\w+)", said["query"])
                data = server.answer(found[1] if found else "", said.get("variables") or {})
                self._reply({"data": data} if data is not None else {"errors": [{"message": "not known here"}]})
            elif found := re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
                server.stream(found[1], json.loads(body))
                self._reply({"exitcode": None, "limits": {}})
            else:
                self._reply({}, 404)

        def do_PUT(self) -> None:
            server.put(urlsplit(self.path).path, self._body())
            self._reply({})

        def do_GET(self) -> None:
            self._body()
            self._reply({}, 404)

        def _body(self) -> bytes:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            time.sleep(server.latency)
            while server.hanging.is_set():
                time.sleep(0.02)
            return content

        def _reply(self, value: Any, status: int = 200) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    return Handler


@contextmanager
def serving() -> Iterator[Server]:
    """Serve on loopback until the end of the block."""
    server = Server()
    http = _Quiet(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.hanging.clear()
        http.shutdown()
        http.server_close()
