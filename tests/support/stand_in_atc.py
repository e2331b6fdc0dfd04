"""Stands in for ATC: refuses every argument that the real one would, and else writes an .om.

It runs as a program of its own, and shares no code with zoofast. ZOOFAST_STAND_IN_ATC chooses
how it ends: a code such as E20001 fails with it, `silent` succeeds without the line of success,
`empty` with the line and no file, `suffix` names the file as for models with host parts.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

OPTIONS = {
    "model",
    "framework",
    "output",
    "input_format",
    "input_shape",
    "log",
    "soc_version",
    "insert_op_conf",
    "enable_small_channel",
    "op_select_implmode",
    "optypelist_for_implmode",
    "precision_mode",
    "output_type",
}
CHIPS = {"Ascend310", "Ascend310P1", "Ascend310P3", "Ascend310B1", "Ascend310B4", "Ascend910B3"}
AIPP_KEYS = {
    "aipp_mode": r"static",
    "related_input_rank": r"0",
    "input_format": r"RGB888_U8",
    "src_image_size_w": r"\d+",
    "src_image_size_h": r"\d+",
    "crop": r"true|false",
    "load_start_pos_w": r"\d+",
    "load_start_pos_h": r"\d+",
    "crop_size_w": r"\d+",
    "crop_size_h": r"\d+",
    "csc_switch": r"true|false",
    "rbuv_swap_switch": r"true|false",
    **{f"mean_chn_{i}": r"\d+" for i in range(3)},
    **{f"min_chn_{i}": r"\d+(\.\d+)?" for i in range(3)},
    **{f"var_reci_chn_{i}": r"\d+(\.\d+)?" for i in range(3)},
}


def fail(code: str, text: str) -> None:
    print("ATC run failed, Please check the detail log, Try 'atc --help' for more information")
    print(f"{code}: {text}")
    print("        Possible Cause: as the code says.")
    sys.exit(255)


def arguments() -> dict[str, str]:
    given: dict[str, str] = {}
    for word in sys.argv[1:]:
        match = re.fullmatch(r"--?([a-z][a-z_-]*)=(\S+)", word)
        if match is None:
            fail("E10003", f"argument {word!r} is not --name=value")
        name = match[1].replace("-", "_")
        if name not in OPTIONS or name in given:
            fail("E10003", f"option --{name} is unknown or given twice")
        given[name] = match[2]
    for name in ("model", "framework", "output", "soc_version"):
        if name not in given:
            fail("E10054", f"The required parameter [{name}] is empty.")
    return given


def check_choice(given: dict[str, str], name: str, choices: set[str]) -> None:
    if given.get(name, min(choices)) not in choices:
        fail("E10003", f"Value [{given[name]}] for parameter [{name}] is invalid.")


def check_model(given: dict[str, str]) -> tuple[int, int]:
    import onnx

    try:
        graph = onnx.load(given["model"]).graph
    except Exception:
        fail("E19005", f"File [{given['model']}] cannot be parsed.")
    wanted: dict[str, list[int]] = {}
    for part in given.get("input_shape", "").split(";"):
        match = re.fullmatch(r"([^:;]+):(\d+(?:,\d+)*)", part)
        if part and match is None:
            fail("E10014", f"Value [{part}] for parameter [input_shape] is invalid.")
        if match:
            wanted[match[1]] = [int(size) for size in match[2].split(",")]
    shapes = {
        value.name: [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    for name in wanted:
        if name not in shapes:
            fail("E10016", f"Opname [{name}] specified in [--input_shape] is not found.")
    for name, shape in shapes.items():
        sizes = wanted.get(name, shape)
        if min(sizes) < 1:
            fail("E10001", f"Value [-1] for parameter [{name}] is invalid.")
        if len(sizes) != len(shape) or any(
            fixed not in (-1, size) for fixed, size in zip(shape, sizes, strict=True)
        ):
            fail("E20001", f"[PID: 1] input {name} of shape {shape} cannot be {sizes}.")
    (sizes,) = [wanted.get(name, shape) for name, shape in shapes.items()]
    return sizes[2], sizes[3]


def check_aipp(path: str, size: tuple[int, int]) -> None:
    text = re.sub(r"#[^\n]*", "", Path(path).read_text(encoding="ascii"))
    body = re.fullmatch(r"\s*aipp_op\s*\{(.*)\}\s*", text, re.DOTALL)
    if body is None:
        fail("E10052", "not one aipp_op { … }")
    entries: dict[str, str] = {}
    for line in filter(None, map(str.strip, body[1].splitlines())):
        match = re.fullmatch(r"(\w+)\s*:\s*(\S+)", line)
        if match is None or match[1] not in AIPP_KEYS or match[1] in entries:
            fail("E10052", f"line {line!r}")
        if not re.fullmatch(AIPP_KEYS[match[1]], match[2]):
            fail("E10052", f"value in {line!r}")
        entries[match[1]] = match[2]
    if entries.get("aipp_mode") != "static" or "input_format" not in entries:
        fail("E10052", "aipp_mode and input_format are required")
    source = (int(entries["src_image_size_h"]), int(entries["src_image_size_w"]))
    left = source
    if entries.get("crop") == "true":
        left = (int(entries["crop_size_h"]), int(entries["crop_size_w"]))
        start = (int(entries["load_start_pos_h"]), int(entries["load_start_pos_w"]))
        if start[0] + left[0] > source[0] or start[1] + left[1] > source[1]:
            fail("E10052", "the crop leaves the image")
    if left != size:
        fail("E10052", f"{left} is not the model's {size}")


def main() -> None:
    print("ATC start working now, please wait for a moment.", flush=True)
    given = arguments()
    check_choice(given, "framework", {"5"})
    check_choice(given, "input_format", {"NCHW", "NHWC", "ND"})
    check_choice(given, "log", {"debug", "info", "warning", "error", "null"})
    check_choice(given, "enable_small_channel", {"0", "1"})
    check_choice(given, "op_select_implmode", {"high_performance", "high_precision"})
    check_choice(given, "soc_version", CHIPS)
    size = check_model(given)
    if "insert_op_conf" in given:
        check_aipp(given["insert_op_conf"], size)
    ending = os.environ.get("ZOOFAST_STAND_IN_ATC", "")
    suffix = "_linux_aarch64" if ending == "suffix" else ""
    if ending != "empty":
        Path(f"{given['output']}{suffix}.om").write_text(json.dumps(given))
    if re.fullmatch(r"E\w+\d", ending):
        fail(ending, "chosen by the test")
    if ending != "silent":
        print("...\nATC run success, welcome to the next use.")


if __name__ == "__main__":
    main()
