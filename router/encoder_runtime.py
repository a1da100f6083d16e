"""OpenVINO without its telemetry: the one place that imports it."""

import sys
from typing import Any


def load_openvino() -> Any:
    """The module. A plain import reports each start to an analytics service and writes to the home folder.

    OpenVINO takes a stub where its telemetry package cannot be imported, and None in `sys.modules` says just that.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    import openvino.opset13

    return openvino
