"""What the runs ask for, so that every operation is carried out and not only refused, and what is written down of it.

Where handles are asked for is anywhere (HANDLES=any), or below the prefix that the node serves (HANDLES=homed): with any
handle most answers are "not responsible"; below the prefix every operation gets to its end, now and then with a record
that is there. RUN names the run: that of "login" opens a session for each of its requests and answers its challenge.

Only what is drawn as valid is replaced, by what is valid as well: what is drawn as invalid stays what it is. Every answer
is a line in SEEN, from which seen.py finds out what never succeeded. With CHINESE every problem must be said in Chinese.
"""

import base64
import hashlib
import hmac
import itertools
import json
import os
import random
import threading
import zlib

import requests
import schemathesis
import urllib3
from schemathesis.core import NOT_SET
from schemathesis.core.parameters import ParameterLocation

urllib3.disable_warnings()

PREFIX = "88.118.20"
# Records that are there, and those that are there to be deleted. The runs go on beside each other: each begins elsewhere, or
# it would find only what another one has deleted.
RECORDS = [f"{PREFIX}/pump", f"{PREFIX}/secret", f"{PREFIX}/USER"]
GONE = int(os.environ["GONE"])
DELETED = (f"{PREFIX}/gone.{number % GONE}" for number in itertools.count(random.randrange(GONE)))
USER, SECRET, CLIENT_NONCE = "300:88.118.20/USER", b"geheim", b"a nonce of u"

SESSIONS = {"session", "end_session", "log_in", "log_in_by_put"}
NUMBERS = itertools.count()
JOBS, LOCK = [], threading.Lock()
# What only jobs that ask have as parameters; where handles are registered they are refused.
ASKING = ("index", "type", "publicOnly", "recursive", "after", "raw")


@schemathesis.serializer("text/csv")
def table(ctx, value):
    # What is no text is sent as a table whose columns make no sense, which is refused as that.
    return (value if isinstance(value, str) else "handle,none").encode(errors="replace")


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    return (value if isinstance(value, str) else '{"none":1}').encode(errors="replace")


def operation_of(case):
    return case.operation.definition.raw["operationId"]


def often(value, one_in):
    """Whether something drawn is among one in so many: the same each time that it is drawn again."""
    return zlib.crc32(repr(value).encode(errors="replace")) % one_in == 0


def is_sound(case, location):
    return case.meta is not None and not case.meta.is_negative_at(location)


def homed(value):
    return value if value.startswith(PREFIX) else f"{PREFIX}/{value}"


def open_session():
    reply = requests.post(os.environ["ORIGIN"] + "/api/sessions", verify=False, timeout=60).json()
    return reply["sessionId"], base64.b64decode(reply["nonce"])


def authorization(operation):
    """What opens, shows or ends a session that was opened for this."""
    session, nonce = open_session()
    if operation not in ("log_in", "log_in_by_put"):
        return f'Handle sessionId="{session}"'
    proof = hmac.new(SECRET, nonce + CLIENT_NONCE, hashlib.sha256).digest()
    cnonce, signature = (base64.b64encode(octets).decode() for octets in (CLIENT_NONCE, proof))
    return (
        f'Handle version="0", sessionId="{session}", id="{USER}", type="HS_SECKEY", cnonce="{cnonce}", '
        f'alg="HMAC-SHA256", signature="{signature}"'
    )


def body_of(operation, body):
    if operation == "batchResolve":
        lines = "\n".join([*RECORDS, f"{PREFIX}/none", "10.9999/elsewhere"])
        return f"{lines}\n{body}" if isinstance(body, str) else lines
    if operation == "createJob":
        return f"handle,index,type,value\n{PREFIX}/job.{next(NUMBERS)},1,URL,https://example.cn/\n"
    return body


def there(case, operation):
    """Has a case ask for what is there, or change it so that nothing is wrong with that."""
    path, query = case.path_parameters, case.query
    if not path or not isinstance(path.get("handle"), str) or not often(path["handle"], 3):
        return
    if not all(is_sound(case, place) for place in (ParameterLocation.QUERY, ParameterLocation.BODY)):
        return
    if operation in ("resolve", "follow"):
        path["handle"] = RECORDS[len(path["handle"]) % len(RECORDS)]
        # Others choose among its values.
        case.query = {}
    elif operation == "delete" and os.environ["HANDLES"] == "homed":
        path["handle"] = next(DELETED)
        case.query = {}
    elif operation == "put" and os.environ["HANDLES"] == "homed":
        case.query = {}
        case.body = {"values": [{"index": 1, "type": "URL", "data": "https://example.cn/"}]}


@schemathesis.hook
def before_call(context, case, kwargs):
    operation = operation_of(case)
    if operation in SESSIONS and os.environ["RUN"] == "login":
        if is_sound(case, ParameterLocation.HEADER) and "Authorization" in case.headers:
            case.headers["Authorization"] = authorization(operation)
        return
    is_text = isinstance(case.body, str) and case.media_type != "application/json"
    if operation in ("batchResolve", "createJob") and case.body is not NOT_SET and not is_text:
        # As text everything is text: there is no body that is not. What was drawn as wrong stays wrong in another way.
        case.body = body_of(operation, case.body)
        case.headers["Content-Type"] = "text/plain; charset=none"
    # A chain of requests is about what its first one has made.
    chained = case.meta is None or case.meta.phase.name.value == "stateful"
    if not chained:
        there(case, operation)
    elif operation == "createJob":
        # The same key gives the job from before, which may have been deleted.
        case.headers.pop("Idempotency-Key", None)
    if os.environ["HANDLES"] != "homed":
        return
    path, query = case.path_parameters, case.query
    if path and isinstance(path.get("handle"), str):
        path["handle"] = homed(path["handle"])
    if query:
        # JSONP is for nobody in particular: with credentials it is refused.
        query.pop("callback", None)
        if isinstance(query.get("prefix"), str) and query["prefix"]:
            query["prefix"] = PREFIX
        if operation == "createJob" and is_sound(case, ParameterLocation.QUERY) and query.get("kind") != "resolve":
            for name in ASKING:
                query.pop(name, None)
    if chained:
        return
    if path and isinstance(path.get("id"), str) and is_sound(case, ParameterLocation.PATH) and often(path["id"], 2):
        with LOCK:
            path["id"] = JOBS[-1] if JOBS else path["id"]
    if operation in ("batchResolve", "createJob") and is_sound(case, ParameterLocation.BODY) and often(case.body, 2):
        case.body = body_of(operation, case.body)


@schemathesis.hook
def after_call(context, case, response):
    if response.request.method != case.operation.method.upper():
        # Another method was tried.
        return
    operation, text = operation_of(case), response.text or ""
    if operation == "createJob" and response.status_code == 202:
        with LOCK:
            JOBS.append(json.loads(text)["id"])
    seen = {
        "run": os.environ["RUN"],
        "operation": operation,
        "status": response.status_code,
        "found": '"values":[{' in text,
    }
    with LOCK, open(os.environ["SEEN"], "a", encoding="utf-8") as file:
        print(json.dumps(seen), file=file)


def is_chinese(text):
    return any("\u4e00" <= character <= "\u9fff" for character in text)


if os.environ.get("CHINESE"):

    @schemathesis.check
    def said_in_chinese(ctx, response, case):
        if "json" not in response.headers.get("content-type", [""])[0] or response.status_code < 400:
            return
        problem = json.loads(response.text)
        for name in ("title", "detail"):
            assert is_chinese(problem.get(name, "无")), f"{name}: {problem[name]!r} is not said in Chinese"
