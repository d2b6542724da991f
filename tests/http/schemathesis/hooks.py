"""Where handles are asked for: anywhere (HANDLES=any), or below the prefix that the node serves (HANDLES=homed).

With any handle most answers are "not responsible"; below the prefix every operation gets to its end.
"""

import os

import schemathesis

PREFIX = "88.118.20"


@schemathesis.serializer("text/csv")
def table(ctx, value):
    # What is no text is sent as a table whose columns make no sense, which is refused as that.
    return (value if isinstance(value, str) else "handle,none").encode(errors="replace")


def homed(value):
    return value if value.startswith(PREFIX) else f"{PREFIX}/{value}"


@schemathesis.hook
def before_call(context, case, kwargs):
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
