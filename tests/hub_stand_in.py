"""The part of Hugging Face's HTTP API that pushing and fetching need, on loopback. It keeps what was pushed in memory.

Source of the shapes: the requests of huggingface_hub (hf_api.py, _commit_api.py, lfs.py, file_download.py).
"""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from ports import unused_port
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TOKEN = "hf_of_a_test"
SMALL = 10 << 10  # bytes up to which a file is sent within the commit


@dataclass
class Repository:
    private: bool
    kind: str
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def revision(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


class Hub:
    """One owner, `me`, whose token is TOKEN."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.parts: dict[str, bytes] = {}  # sent beside a commit, by SHA-256
        self.requests: list[str] = []
        self.url = ""

    def app(self) -> Starlette:
        repository = "{kind:str}/{owner:str}/{name:str}"
        routes = [
            ("/api/whoami-v2", self.whoami, ["GET"]),
            ("/api/repos/create", self.create, ["POST"]),
            ("/api/validate-yaml", self.validate, ["POST"]),
            (f"/api/{repository}/preupload/main", self.preupload, ["POST"]),
            (f"/api/{repository}/commit/main", self.commit, ["POST"]),
            (f"/api/{repository}/revision/{{revision}}", self.info, ["GET"]),
            (f"/api/{repository}/tree/{{revision}}", self.tree, ["GET"]),
            (f"/api/{repository}/tree/{{revision}}/{{folder:path}}", self.tree, ["GET"]),
            (f"/api/{repository}/paths-info/{{revision}}", self.paths, ["POST"]),
            (f"/api/{repository}", self.info, ["GET"]),
            ("/{owner}/{name}.git/info/lfs/objects/batch", self.batch, ["POST"]),
            ("/spaces/{owner}/{name}.git/info/lfs/objects/batch", self.batch, ["POST"]),
            ("/parts/{digest}", self.part, ["PUT"]),
            ("/{owner}/{name}/resolve/{revision}/{file:path}", self.resolve, ["GET", "HEAD"]),
            ("/datasets/{owner}/{name}/resolve/{revision}/{file:path}", self.resolve, ["GET", "HEAD"]),
        ]
        return Starlette(
            routes=[Route(path, self._known(endpoint), methods=methods) for path, endpoint, methods in routes]
        )

    def _known(self, endpoint: Any) -> Any:
        async def checked(request: Request) -> Response:
            self.requests.append(f"{request.method} {request.url.path}")
            if request.headers.get("authorization") != f"Bearer {TOKEN}" and not request.url.path.startswith("/parts/"):
                return JSONResponse({"error": "Invalid username or password."}, 401)
            answer: Response = await endpoint(request)
            return answer

        return checked

    def _repository(self, request: Request) -> Repository | None:
        return self.repositories.get(_place(request))

    async def whoami(self, request: Request) -> Response:
        return JSONResponse({"name": "me", "type": "user"})

    async def validate(self, request: Request) -> Response:
        return JSONResponse({"errors": [], "warnings": []})

    async def create(self, request: Request) -> Response:
        asked = await request.json()
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.repositories:
            return JSONResponse({"error": "You already created this repo", "url": f"{self.url}/{name}"}, 409)
        kind = asked.get("type", "model")
        self.repositories[name] = Repository(asked.get("private") or asked.get("visibility") == "private", kind)
        return JSONResponse({"url": f"{self.url}/{'spaces/' if kind == 'space' else ''}{name}", "name": name})

    async def preupload(self, request: Request) -> Response:
        files = (await request.json())["files"]
        told = [
            {"path": file["path"], "uploadMode": "lfs" if file["size"] > SMALL else "regular", "shouldIgnore": False}
            for file in files
        ]
        return JSONResponse({"files": told})

    async def batch(self, request: Request) -> Response:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.url}/parts/{each['oid']}", "header": {}}}}
            for each in (await request.json())["objects"]
        ]
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def part(self, request: Request) -> Response:
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != request.path_params["digest"]:
            return Response(status_code=400)
        self.parts[request.path_params["digest"]] = content
        return Response()

    async def commit(self, request: Request) -> Response:
        repository = self._repository(request)
        if repository is None:
            return JSONResponse({"error": "Repository not found"}, 404, {"x-error-code": "RepoNotFound"})
        for line in (await request.body()).splitlines():
            record = json.loads(line)
            match record["key"]:
                case "file":
                    repository.files[record["value"]["path"]] = base64.b64decode(record["value"]["content"])
                case "lfsFile":
                    repository.files[record["value"]["path"]] = self.parts[record["value"]["oid"]]
        place = f"{request.path_params['owner']}/{request.path_params['name']}"
        return JSONResponse(
            {
                "success": True,
                "commitOid": repository.revision,
                "commitUrl": f"{self.url}/{place}/commit/{repository.revision}",
            }
        )

    async def info(self, request: Request) -> Response:
        repository = self._repository(request)
        if repository is None:
            return JSONResponse({"error": "Repository not found"}, 404, {"x-error-code": "RepoNotFound"})
        siblings = [{"rfilename": name, "size": len(content)} for name, content in repository.files.items()]
        place = _place(request)
        facts = {
            "id": place,
            "modelId": place,
            "sha": repository.revision,
            "private": repository.private,
            "siblings": siblings,
        }
        return JSONResponse(facts)

    async def tree(self, request: Request) -> Response:
        files = self._repository(request).files  # type: ignore[union-attr]  (`info` was asked before)
        folder = request.path_params.get("folder", "")
        inside = [name for name in files if not folder or name.startswith(f"{folder}/")]
        if folder and not inside:
            return JSONResponse({"error": "Entry not found"}, 404, {"x-error-code": "EntryNotFound"})
        whole = request.query_params.get("recursive", "").lower() == "true"
        depth = folder.count("/") + 1 if folder else 0
        names = [name if whole else "/".join(name.split("/")[: depth + 1]) for name in inside]
        return JSONResponse([_entry(files, name) for name in dict.fromkeys(names)])

    async def paths(self, request: Request) -> Response:
        """Tell what there is at each of the paths that the body names (a form): a file, a folder, or nothing."""
        files = self._repository(request).files  # type: ignore[union-attr]
        asked = parse_qs((await request.body()).decode()).get("paths", [])
        there = [path for path in asked if any(name == path or name.startswith(f"{path}/") for name in files)]
        return JSONResponse([_entry(files, path) for path in there])

    async def resolve(self, request: Request) -> Response:
        repository = self._repository(request)
        if repository is None or request.path_params["file"] not in repository.files:
            return JSONResponse({"error": "Entry not found"}, 404, {"x-error-code": "EntryNotFound"})
        content = repository.files[request.path_params["file"]]
        headers = {
            "etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "x-repo-commit": repository.revision,
            "accept-ranges": "bytes",
        }
        if request.method == "HEAD":
            return Response(headers={**headers, "content-length": str(len(content))})
        return Response(content, headers=headers)


def _entry(files: dict[str, bytes], path: str) -> dict[str, object]:
    """Return what the API tells of a file, or of a folder."""
    if path not in files:
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()}
    content = files[path]
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _place(request: Request) -> str:
    return f"{request.path_params['owner']}/{request.path_params['name']}"


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve it on a free loopback port; yield its address."""
    port = unused_port()
    hub.url = f"http://127.0.0.1:{port}"
    server = uvicorn.Server(uvicorn.Config(hub.app(), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield hub.url
    server.should_exit = True
    thread.join(10)
