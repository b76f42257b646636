"""MONAI Label behind a guard: only what the maps need is served, and only from the server's own folder.

MONAI Label 0.8.5 by itself takes the path of any file as an image, any file as weights, and any text as a setting of
the configuration. Here a request is checked before MONAI Label sees it. `serve.py` starts this application.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from monailabel.app import lifespan as label_lifespan
from monailabel.endpoints import datastore, infer, info
from monailabel.interfaces.utils.app import app_instance
from starlette.datastructures import UploadFile
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uploads import MAX_VALUES, check_upload

MAX_BODY_BYTES = 1 << 30
OPEN = {
    ("GET", "/info/"),
    ("GET", "/datastore/"),
    ("GET", "/datastore/image"),
    ("HEAD", "/datastore/image"),
    ("PUT", "/datastore/image"),
    ("DELETE", "/datastore/image"),
    ("POST", "/infer/{model}"),
}
ARGUMENTS = {"image", "id", "model", "output", "check_sum"}
SETTINGS = {
    *(
        "source",
        "field_unit",
        "field_sign",
        "echo_time_s",
        "rate_unit",
        "b0_tesla",
        "relaxivity_per_s_ppm",
        "reference",
    ),
    *("device", "model_filename", "result_extension", "client_id"),
}
_PLAIN = re.compile(r"(?!.*\.\.)[A-Za-z0-9_.:+-]{0,128}")
_FOLDERS = re.compile(r"(/[^\s/()]+)+/")


def _refuse(what: str, code: int = 422) -> HTTPException:
    return HTTPException(status_code=code, detail=what)


def _check_plain(named: Iterable[tuple[str, Any]], known: set[str]) -> None:
    """Let numbers and short plain words pass: no path and no expression can be written with them."""
    for name, value in named:
        if name not in known:
            raise _refuse(f"{name[:40]!r} is not taken here; known are {', '.join(sorted(known))}")
        for item in value if isinstance(value, list) else [value]:
            if not (
                item is None or isinstance(item, int | float) or (isinstance(item, str) and _PLAIN.fullmatch(item))
            ):
                raise _refuse(f"{name} must be a number or a plain word, without folders or '$'")


def _check_settings(text: Any) -> None:
    try:
        settings = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise _refuse("params must be JSON") from error
    if not isinstance(settings, dict):
        raise _refuse("params must be a JSON object")
    _check_plain(settings.items(), SETTINGS)


async def guard(request: Request) -> None:
    """Refuse what is not served here.

    Raises:
        HTTPException: another route, a name or setting that is not plain, or a file that is no case.
    """
    route = (request.method, request.scope["route"].path)
    if route not in OPEN:
        raise _refuse(f"{request.method} {route[1]} is not served here", 403)
    arguments = [*request.query_params.multi_items(), *request.path_params.items()]
    _check_plain(arguments, ARGUMENTS)
    known, form = set(app_instance().datastore().list_images()), await request.form()
    image, uploads = request.query_params.get("image", ""), [f for f in form.values() if isinstance(f, UploadFile)]
    for name, value in form.multi_items():
        if name == "params":
            _check_settings(value)
        elif name != "file" or not isinstance(value, UploadFile) or len(uploads) > 1:
            raise _refuse(f"form field {name[:40]!r} is not taken here; send params and one file")
        else:
            check_upload(value.file, value.filename or "", max_values=MAX_VALUES)
    if request.method == "PUT" and (image or "").strip(".") in {"", *known}:
        raise _refuse(f"choose an image name that is not empty and not taken, got {image!r}", 409)
    if request.method != "PUT" and image and image not in known:
        raise _refuse(f"there is no image {image!r}; upload it first", 404)
    if request.method == "DELETE" and request.query_params.get("id") not in known:
        raise _refuse("there is no such image", 404)
    if route[0] == "POST" and request.path_params["model"] not in app_instance().info()["models"]:
        raise _refuse("there is no such model", 404)


class BoundedBodies:
    """Refuse requests that are too long, or do not say how long they are, before anything is stored."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 411 or 413."""
        headers = dict(scope.get("headers", []))
        length = headers.get(b"content-length", b"0")
        code = 411 if b"transfer-encoding" in headers else 413 if int(length) > MAX_BODY_BYTES else None
        if scope["type"] != "http" or code is None:
            await self.app(scope, receive, send)
        else:
            detail = f"a request must state its length, {MAX_BODY_BYTES} bytes at most"
            await JSONResponse({"detail": detail}, status_code=code)(scope, receive, send)


def check_weights(tasks: dict[str, Any]) -> None:
    """Refuse weights that are not those of the network: MONAI Label would go on with what happens to fit.

    Raises:
        RuntimeError: names differ.
    """
    for name, task in tasks.items():
        state = torch.load(task.get_path(), map_location="cpu", weights_only=True)
        if state.keys() != task.network.state_dict().keys():
            raise RuntimeError(f"{name}: models/model.pt holds the weights of another network; pack the bundle again")


@asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    """Start MONAI Label, and check what it serves."""
    async with label_lifespan(application):
        check_weights(app_instance()._infers)
        yield


async def explain(request: Request, error: Exception) -> JSONResponse:
    """Answer with the reason of a refusal, without folders of the server."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ValueError | FileNotFoundError):
        cause = cause.__cause__
    if cause is None:
        return JSONResponse({"detail": "inference failed; the log of the server says why"}, status_code=500)
    return JSONResponse({"detail": _FOLDERS.sub("", str(cause))}, status_code=422)


app = FastAPI(title="chisep", lifespan=lifespan, dependencies=[Depends(guard)], openapi_url=None)
app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
app.add_middleware(BoundedBodies)
for kind in (RuntimeError, ValueError, OSError):
    app.add_exception_handler(kind, explain)
for module in (info, datastore, infer):
    app.include_router(module.router)
os.umask(0o077)
