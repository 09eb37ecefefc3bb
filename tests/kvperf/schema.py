#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A JSON Schema validator for what perf/kvperf/schema.json uses and nothing more; another keyword in a schema is an
error, so that nothing is passed over in silence."""
KNOWN = {"$schema", "$id", "$defs", "$ref", "title", "description", "type", "required", "additionalProperties", "properties",
         "items", "enum", "const", "minimum"}
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool}


def is_type(value, name):
    if name in TYPES:
        return isinstance(value, TYPES[name])
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and (name == "number" or value == int(value))


def faults(value, schema, root=None, at="$"):
    """A sentence for each way in which value isn't what schema says."""
    root = root or schema
    for word in set(schema) - KNOWN:
        raise ValueError("schema keyword %s isn't known here" % word)
    if "$ref" in schema:
        yield from faults(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root, at)
    if "type" in schema and not is_type(value, schema["type"]):
        yield "%s is %r, not of type %s" % (at, value, schema["type"])
        return
    if "const" in schema and value != schema["const"]:
        yield "%s is %r, not %r" % (at, value, schema["const"])
    if "enum" in schema and value not in schema["enum"]:
        yield "%s is %r, not one of %s" % (at, value, schema["enum"])
    if "minimum" in schema and value < schema["minimum"]:
        yield "%s is %r, below %r" % (at, value, schema["minimum"])
    if isinstance(value, dict):
        known = schema.get("properties", {})
        for name in schema.get("required", []):
            if name not in value:
                yield "%s.%s is missing" % (at, name)
        for name in value:
            if name in known:
                yield from faults(value[name], known[name], root, at + "." + name)
            elif schema.get("additionalProperties") is False:
                yield "%s.%s isn't in the schema" % (at, name)
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            yield from faults(item, schema["items"], root, "%s[%d]" % (at, i))
