"""Compares recipes with the own scripts of detection, face and text guides.

    python tools/compare_guides.py MODELZOO --python PYTHON [--images FOLDER] [--write] [GUIDE...]

Runs the unchanged preprocessing script of each guide of Ascend/ModelZoo-PyTorch, and compares
every byte of its bins with zoofast's tensors of the same images. MODELZOO is a checkout. PYTHON is
an interpreter that has mmcv, OpenCV, torchvision, pycocotools and facenet-pytorch. OpenCV's IPP is
off. Exit code 1: a tensor differs.

The images are five made ones, stored as PNG, and the JPEGs of FOLDER. --write: put the hashes of
the made images into tests/preprocess/detection.sha16, one line for each recipe and image: the
first 16 hexadecimal digits of the tensor's SHA-256.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from zoofast.base.provenance import sha256
from zoofast.preprocess.guides import guides
from zoofast.preprocess.prepare import prepare
from zoofast.preprocess.recipe_file import load_recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.detection import SIZES, picture

HASHES = Path(__file__).parent.parent / "tests" / "preprocess" / "detection.sha16"


@dataclass
class Script:
    """A guide's script, and how it wants its images and names its bins.

    `arguments` are below the working folder, which has the images in `images` and gets the bins in
    `bins`.
    """

    file: str
    arguments: str
    images: str = "in"
    bins: str = "out"
    bin: Callable[[int, str], str] = lambda i, stem: f"{stem}.bin"
    listed: Callable[[Path], list[str]] = lambda images: sorted(os.listdir(images))  # gives each i
    prepare_folder: Callable[[Path, list[Path]], None] = lambda folder, images: None
    side: int | None = None  # the script takes images of this size only


def info_file(folder: Path, images: list[Path]) -> None:
    """A line for each image: number, path, width and height."""
    lines = [f"{i} {image} 0 0\n" for i, image in enumerate(images)]
    (folder / "images.info").write_text("".join(lines))


def annotations(folder: Path, images: list[Path]) -> None:
    """COCO's annotations: one box in each image."""
    content = {
        "images": [
            {"id": i, "file_name": image.name, "height": 9, "width": 9}
            for i, image in enumerate(images)
        ],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [0, 0, 5, 5], "area": 25}
            for i in range(len(images))
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    (folder / "boxes.json").write_text(json.dumps(content))


def characters(folder: Path, images: list[Path]) -> None:
    """In place of LPRNet_Pytorch's table of characters, which the script needs for labels alone."""
    module = folder / "LPRNet_Pytorch" / "data" / "load_data.py"
    module.parent.mkdir(parents=True)
    module.write_text("CHARS = list('0123456789DF')\nCHARS_DICT = {c: c for c in CHARS}\n")


def list_of_fddb(folder: Path, images: list[Path]) -> None:
    """The images by name, without suffix."""
    names = [f"event/{image.stem}\n" for image in images]
    (folder / "data" / "FDDB").mkdir(parents=True)
    (folder / "data" / "FDDB" / "img_list.txt").write_text("".join(names))


def list_of_wider_face(folder: Path, images: list[Path]) -> None:
    """The images by name."""
    names = [f"event/{image.name}\n" for image in images]
    (folder / "val" / "wider_val.txt").write_text("".join(names))


def folder_of_bins(folder: Path, images: list[Path]) -> None:
    (folder / "bin_out").mkdir()


def output_folder(folder: Path, images: list[Path]) -> None:
    (folder / "out").mkdir()


MMDET = "--image_folder_path in --bin_folder_path out"
BATCHES = "--image_src_path in --bin_file_path out"
SCRIPTS = {
    "cascade_rcnn_r50": Script("cascade_rcnn_r50_fpn_preprocess.py", MMDET),
    "cascade_rcnn_r101": Script("mmdetection_coco_preprocess.py", MMDET),
    "cascade_rcnn_r101_fpn": Script("Cascade_RCNN_R101_preprocess.py", MMDET),
    "cascade_rcnn_r101_dcn": Script("cascadercnn-dcn_preprocess.py", MMDET),
    "cascade_rcnn_dcn_builtin": Script("cascadercnndcn_preprocess.py", MMDET),
    "cascade_rcnn_dcn_101_builtin": Script("cascadercnndcn_preprocess.py", MMDET),
    "faster_rcnn_r50": Script("mmdetection_coco_preprocess.py", MMDET),
    "faster_rcnn_dcn_r50": Script("FasterRCNN+FPN+DCN_preprocess.py", MMDET),
    "faster_rcnn_dcn_r101": Script("mmdetection_coco_preprocess.py", MMDET),
    "retinanet_builtin": Script("preprocess.py", MMDET),
    "retinanet_resnet18": Script("retinanet_preprocess.py", MMDET),
    "nas_fpn": Script("mmdetection_coco_preprocess.py", MMDET),
    "tood": Script("tood_preprocess.py", f"{BATCHES} --height 1216 --width 1216"),
    "mask_rcnn_swin_s": Script(
        "data_preprocess.py", f"{BATCHES} --model_input_height 800 --model_input_width 1216"
    ),
    "fsaf": Script(
        "Fsaf_preprocess.py", f"{BATCHES} --model_input_height 800 --model_input_width 1216"
    ),
    "gfocal_v2": Script(
        "gfocal_preprocess.py", f"{BATCHES} --model_input_height 800 --model_input_width 1216"
    ),
    "fcos": Script(
        "fcos_pth_preprocess.py", f"{BATCHES} --model_input_height 800 --model_input_width 1333"
    ),
    "ssd": Script("ssd_preprocess.py", MMDET),
    "ssd_resnet34": Script(
        "ssd_preprocess.py",
        "--val_annotation boxes.json --data_root in --save_path out",
        prepare_folder=annotations,
    ),
    "ssd_mobilenet_v2": Script("ssdmobilenetv2_preprocess.py", "--src_path in --save_path out"),
    "vgg16_ssd": Script("ssd_pth_preprocess.py", "vgg16_ssd in out"),
    "yolov3": Script("preprocess_yolov3_pytorch.py", "images.info out", prepare_folder=info_file),
    "yolov4": Script("preprocess_yolov4_pytorch.py", "images.info out", prepare_folder=info_file),
    "yolov7": Script("yolov7_preprocess.py", BATCHES),
    "yolof": Script(
        "YOLOF_preprocess.py",
        f"{BATCHES} --meta_file_path meta",
        bin=lambda i, stem: f"{i // 100}_{i % 100 + 1}.bin",
        listed=os.listdir,
    ),
    "yolof_builtin": Script("YOLOF_preprocess.py", f"{BATCHES} --meta_file_path meta"),
    "yolox_mmdetection": Script("YOLOX_preprocess.py", f"{BATCHES} --meta_file_path meta"),
    "yolox_tiny": Script("YOLOX_preprocess.py", f"{BATCHES} --meta_file_path meta"),
    "dsfd": Script(
        "dsfd_preprocess.py",
        "--src_path in",
        images="in/event",
        bins="bin_out",
        prepare_folder=folder_of_bins,
    ),
    "faceboxes": Script(
        "faceboxes_pth_preprocess.py",
        "--dataset val --save-folder out",
        images="val/images/event",
        bin=lambda i, stem: f"event_{stem}.bin",
        prepare_folder=list_of_fddb,
    ),
    "retinaface": Script(
        "retinaface_pth_preprocess.py",
        "--dataset-folder val/images/ --preinfo-folder info --save-folder out",
        images="val/images/event",
        prepare_folder=list_of_wider_face,
    ),
    "facenet": Script(
        "FaceNet_preprocess.py",
        "--crop_dir in --save_dir out",
        images="in/person",
        bins="out/xb_results",
        bin=lambda i, stem: f"{i}.bin",
        side=160,
    ),
    "fots": Script(
        "FOTS_preprocess.py",
        "--images-folder in --output-folder out",
        prepare_folder=output_folder,
    ),
    "lprnet": Script(
        "LPRNet_preprocess.py", "--img_path in --dst_path out", prepare_folder=characters
    ),
    "psenet": Script("preprocess_psenet_pytorch.py", "in out"),
}


def made_images(side: int | None) -> dict[str, bytes]:
    """Name -> PNG."""
    files = {}
    for height, width in SIZES if side is None else [(side, side)]:
        image = Image.fromarray(picture(height, width))
        file = io.BytesIO()
        image.save(file, "PNG")
        files[f"{height}x{width}"] = file.getvalue()
    return files


def given_images(folder: Path | None, side: int | None) -> dict[str, bytes]:
    """Name -> the JPEG, or its thumbnail of `side` pixels."""
    files = {}
    for path in sorted(folder.iterdir()) if folder else ():
        if path.suffix.lower() not in (".jpeg", ".jpg"):
            continue
        data = path.read_bytes()
        if side is not None:
            file = io.BytesIO()
            with Image.open(path) as image:
                image.convert("RGB").resize((side, side)).save(file, "JPEG", quality=95)
            data = file.getvalue()
        files[path.name] = data
    return files


def run(script: Script, path: Path, python: str, files: list[bytes]) -> list[bytes]:
    """The bins of the files, made by the script."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, bins = folder / script.images, folder / script.bins
        images.mkdir(parents=True)
        paths = []
        for i, data in enumerate(files):
            paths.append(images / f"{i:04d}.jpg")
            paths[i].write_bytes(data)
        script.prepare_folder(folder, paths)
        environment = {**os.environ, "OPENCV_IPP": "disabled", "PYTHONPATH": str(folder)}
        done = subprocess.run(
            [python, path / script.file, *script.arguments.split()],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{path / script.file}: {done.stderr[-2000:]}")
        listed = script.listed(images)
        names = [script.bin(listed.index(path.name), path.stem) for path in paths]
        return [(bins / name).read_bytes() for name in names]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modelzoo", type=Path)
    parser.add_argument("guides", nargs="*", metavar="GUIDE", default=list(SCRIPTS))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    hashes: dict[str, list[str]] = {}
    unequal = 0
    for name in arguments.guides:
        script, guide, recipe = SCRIPTS[name], guides()[name], load_recipe(name)
        made = made_images(script.side)
        files = {**made, **given_images(arguments.images, script.side)}
        path = arguments.modelzoo.resolve() / "ACL_PyTorch" / guide.path
        theirs = run(script, path, arguments.python, list(files.values()))
        ours = [prepare(data, recipe).tobytes() for data in files.values()]
        differing = [key for key, a, b in zip(files, ours, theirs, strict=True) if a != b]
        unequal += len(differing)
        print(f"{name}: {len(files) - len(differing)} of {len(files)} equal", *differing[:5])
        digests = [sha256(data)[:16] for data in theirs[: len(made)]]
        lines = [f"{guide.recipe} {key} {d}\n" for key, d in zip(made, digests, strict=True)]
        if hashes.setdefault(str(guide.recipe), lines) != lines:
            raise SystemExit(f"{name}: not the tensors of the other guides of {guide.recipe}")
    if arguments.write and not unequal:
        written = set(hashes)
        for line in HASHES.read_text().splitlines(keepends=True):  # of guides that were not run
            if line.split()[0] not in written:
                hashes.setdefault(line.split()[0], []).append(line)
        HASHES.write_text("".join(line for name in sorted(hashes) for line in hashes[name]))
    return 1 if unequal else 0


if __name__ == "__main__":
    raise SystemExit(main())
