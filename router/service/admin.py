"""What changes the service while it runs: for keys with the right to, and with no say in what is loaded from where."""

from http import HTTPStatus

from fastapi import FastAPI, Request, Response

from router.service.answers import ErrorAnswer, ReloadAnswer
from router.service.body import BodyError, ClientGoneError, read_body
from router.service.reloads import BUSY, OK, REFUSED, Reloads
from router.service.respond import error_response, json_response, refused_body
from router.service.settings import Settings

RELOAD_PATH = "/admin/reload"
# An empty object is as good as nothing; whoever sends more expects something that does not happen.
NO_BODY = (b"", b"{}")
MAX_BODY_BYTES = 64
_STATUSES = {BUSY: HTTPStatus.CONFLICT, REFUSED: HTTPStatus.UNPROCESSABLE_ENTITY}
_ERRORS = {
    403: "The API key has not the right `admin`.",
    409: "Another reload is under way.",
    422: "The artifact is not in order, and the old one stays; or the request says something.",
    503: "The artifact could not be loaded here and now, and the old one stays.",
}


def add_admin(app: FastAPI, reloads: Reloads, settings: Settings) -> None:
    """Add the endpoints to an application whose middleware has asked for a key."""

    @app.post(
        RELOAD_PATH,
        summary="Load the configured artifact anew, and serve it",
        response_model=ReloadAnswer,
        responses={status: {"model": ErrorAnswer, "description": text} for status, text in _ERRORS.items()},
    )
    async def reload(request: Request) -> Response:
        caller = settings.api_keys.caller_of(request.scope["headers"])
        if caller is None or not caller.may_change:
            return error_response(403, "forbidden", "the API key has not the right 'admin'")
        try:
            said = await read_body(
                request.receive,
                request.headers.get("content-length", "").encode(),
                max_bytes=MAX_BODY_BYTES,
                chunk_timeout_s=settings.chunk_timeout_s,
            )
        except BodyError as exc:
            return refused_body(exc)
        except ClientGoneError:
            return Response(status_code=400)  # to nobody
        if said.strip() not in NO_BODY or request.url.query:
            message = "nothing can be said about a reload: it is of the configured directory"
            return error_response(422, "validation", message)
        done = await reloads.reload()
        if done.outcome == OK:
            return json_response(200, done.to_json())
        return error_response(_STATUSES.get(done.outcome, 503), f"reload_{done.outcome}", done.reason)
