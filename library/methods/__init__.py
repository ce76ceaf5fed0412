"""Methods: PureCC and its rivals. Each is a file that registers itself; all share the model, data, step and files."""

from __future__ import annotations

import importlib
import pkgutil

from library.methods.method import METHODS, Method, in_order, method_of, register

__all__ = ["METHODS", "Method", "in_order", "method_of", "register"]

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
