"""Redirects the capsules through which CuPy's compiled modules call CUDA.

A capsule holds the address of a C function. Each capsule is pointed to a trampoline, generated in C
from the capsule's own signature, that calls a Python handler. It passes an exception of the handler
on as CuPy's functions do, so that the caller gets the exception with its traceback. (A ctypes
callback would print the exception and return garbage.)
"""

from __future__ import annotations

import atexit
import ctypes
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from .build import build

Handler = Callable[..., object]

# Abbreviation in the table of signatures -> C type.
_ALIASES = {"ptr": "intptr_t", "size": "size_t", "uint": "unsigned int", "ulong": "uintmax_t"}
# C type -> how PyObject_CallFunction builds a Python object from it.
_FORMATS = {
    "int": "i",
    "CUdevice": "i",
    "cudaMemcpyKind": "i",
    "unsigned int": "I",
    "intptr_t": "n",
    "size_t": "K",
    "uintmax_t": "K",
    "object": "O",
    "optional": "i",
}
# Functions with one optional int argument that the handler gets: -1 if the caller omits it.
# (Cython passes {number of arguments, first argument}, or a null pointer.)
OPTIONAL_INT = {"streamBeginCapture"}
# Structs returned by value, which only textures need; all are returned through memory.
_STRUCT = "struct host_struct"

_PRELUDE = """
#include <stddef.h>
#include <stdint.h>
typedef void *object;
typedef int CUdevice;
typedef int cudaMemcpyKind;
struct host_struct { char bytes[20]; };
object PyObject_CallFunction(object, const char *, ...);
object PyErr_Occurred(void);
void Py_DecRef(object);
long long PyLong_AsLongLong(object);
double PyFloat_AsDouble(object);
void Py_IncRef(object);
extern struct host_object { char opaque[8]; } _Py_NoneStruct;
object host_handlers[%d];
static int closed; /* Python is going down: what CuPy still frees needs no handler */
void host_close(void) { closed = 1; }
static object none(void) { Py_IncRef(&_Py_NoneStruct); return &_Py_NoneStruct; }
"""


class Signature(NamedTuple):
    """Hold a capsule's C signature; `failure` is the result that signals an exception."""

    name: str
    result: str
    arguments: tuple[str, ...]
    failure: str

    @property
    def passed(self) -> list[tuple[int, str]]:
        """Return (position, type) of the arguments that a handler gets."""
        left_out = ("skip",) if self.name in OPTIONAL_INT else ("skip", "optional")
        return [(i, a) for i, a in enumerate(self.arguments) if a not in left_out]


def parse_table(table: str) -> dict[str, Signature | None]:
    """Parse a table of `signatures.py`: {name: signature, or None for a variable}."""
    parsed: dict[str, Signature | None] = {}
    for line in table.strip().splitlines():
        name, text = line.split(": ", 1)
        match = re.fullmatch(r"(\w+) \((.*?)\)(?: except (-?\d+))?", text)
        if match is None:
            parsed[name] = None
            continue
        result, arguments, failure = match.groups()
        split = [a.strip() for a in arguments.split(",")] if arguments else []
        types = tuple(_ALIASES.get(a, a) for a in split)
        parsed[name] = Signature(name, _ALIASES.get(result, result), types, failure or "0")
    return parsed


def parse_capsule(name: str, text: str) -> Signature | None:
    """Parse the signature that a capsule has as its name, in the types of the table."""
    match = re.fullmatch(r"(.*?) ?\((.*)\)", text)
    if match is None:
        return None
    result, arguments = match.groups()
    split = [a.strip() for a in arguments.split(",") if a.strip() != "void"]
    return Signature(name, _plain(result), tuple(_plain(a) for a in split), "0")


def _plain(c_type: str) -> str:
    if c_type == "PyObject *":
        return "object"
    if c_type == "int __pyx_skip_dispatch":
        return "skip"
    if "__pyx_opt_args" in c_type:
        return "optional"
    cython_object = re.fullmatch(r"struct __pyx_obj_\w+?7runtime_(\w+) \*", c_type)
    return cython_object.group(1) if cython_object else c_type


def check_signatures(module: ModuleType, table: str) -> dict[str, Signature]:
    """Return the module's functions; raise RuntimeError with every capsule unlike the table."""
    expected = parse_table(table)
    capsules = module.__pyx_capi__
    wrong = sorted(set(expected) ^ set(capsules))
    for name in set(expected) & set(capsules):
        told, known = parse_capsule(name, capsule_name(capsules[name])), expected[name]
        if told is None or known is None:
            if told is not known:
                wrong.append(name)
        elif told[:3] != known[:3]:
            wrong.append(f"{name} is {told.result} ({', '.join(told.arguments)})")
    if wrong:
        raise RuntimeError(f"cupy_host: {module.__name__} has unexpected capsules: {wrong}")
    return {name: s for name, s in expected.items() if s is not None}


def capsule_name(capsule: object) -> str:
    """Return the C signature, which Cython stores as a capsule's name."""
    get = ctypes.pythonapi.PyCapsule_GetName
    get.restype, get.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return get(capsule).decode()


def trampoline_source(signatures: list[Signature]) -> str:
    """Return the C source of the trampolines; the n-th one calls host_handlers[n]."""
    text = [_PRELUDE % len(signatures)]
    for number, signature in enumerate(signatures):
        text.append(_trampoline(number, signature))
    return "\n".join(text)


def _trampoline(number: int, signature: Signature) -> str:
    c_types = []
    for kind in signature.arguments:
        known = kind in _FORMATS and kind != "optional"
        c_types.append(kind if known else "int" if kind == "skip" else "void *")
    declared = ", ".join(f"{kind} a{i}" for i, kind in enumerate(c_types)) or "void"
    formats = "".join(_FORMATS.get(kind, "O") for _, kind in signature.passed)
    values = "".join(
        f", a{i} && *(int *)a{i} ? ((int *)a{i})[1] : -1" if kind == "optional" else f", a{i}"
        for i, kind in signature.passed
    )
    call = f'object r = PyObject_CallFunction(host_handlers[{number}], "({formats})"{values});'
    returned = signature.result
    if returned == "float":
        body = "float v = (float)PyFloat_AsDouble(r); Py_DecRef(r);"
    elif returned in _FORMATS and returned != "object":
        body = f"{returned} v = ({returned})PyLong_AsLongLong(r); Py_DecRef(r);"
    elif returned.startswith("cuda"):
        returned, body = _STRUCT, f"{_STRUCT} v = {{{{0}}}}; Py_DecRef(r);"
    else:
        start = f"object host_{signature.name}({declared})"
        return f"{start} {{ if (closed) return none(); {call} return r; }}"
    zero = f"({_STRUCT}){{{{0}}}}" if returned == _STRUCT else f"({returned})0"
    failed = zero if returned == _STRUCT else f"({returned}){signature.failure}"
    return (
        f"{returned} host_{signature.name}({declared}) {{ if (closed) return {zero}; {call} "
        f"if (!r) return {failed}; "
        f"{body} return PyErr_Occurred() ? {failed} : v; }}"
    )


def swap(
    module: ModuleType, signatures: dict[str, Signature], handlers: dict[str, Handler]
) -> object:
    """Points the capsules of `module` to `handlers`, and its Python functions too.

    Returns the objects that must stay alive as long as the capsules are used.
    """
    order = [signatures[name] for name in handlers]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "trampolines.c"
        file.write_text(trampoline_source(order))
        target = build("trampolines", [file])
    library = ctypes.PyDLL(str(target))
    atexit.register(library.host_close)
    table = (ctypes.py_object * len(order)).in_dll(library, "host_handlers")
    set_pointer = ctypes.pythonapi.PyCapsule_SetPointer
    set_pointer.argtypes = [ctypes.py_object, ctypes.c_void_p]
    for number, signature in enumerate(order):
        handler = handlers[signature.name]
        table[number] = handler
        address = ctypes.cast(getattr(library, f"host_{signature.name}"), ctypes.c_void_p)
        set_pointer(module.__pyx_capi__[signature.name], address)
        if hasattr(module, signature.name):
            setattr(module, signature.name, handler)
    return library, table
