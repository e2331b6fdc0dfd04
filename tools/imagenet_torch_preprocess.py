"""Drop-in for the AlexNet and ResNet34 guides' script of this name: [MODEL_TYPE] SRC DST."""

import sys

from zoofast.cli import main

RECIPES = {
    "resnet": "resnet34",
    "inceptionv3": "inceptionv3",
    "inceptionv4": "inceptionv4_half_even",
}

*model, source, folder = sys.argv[1:] if len(sys.argv) > 2 else ["", "", ""]
if len(model) > 1 or (model and model[0] not in RECIPES):
    sys.exit(f"usage: {sys.argv[0]} [{'|'.join(RECIPES)}] SRC DST")
recipe = RECIPES[model[0]] if model else "alexnet"
sys.exit(main(["prep", source, folder, "--recipe", recipe, "--overwrite"]))
