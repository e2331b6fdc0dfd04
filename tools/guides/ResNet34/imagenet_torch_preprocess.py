"""The ResNet34 guide's preprocessing script, done by zoofast."""

from zoofast.guide_script import run

RECIPES = {
    "resnet": "resnet34",
    "inceptionv3": "inceptionv3",
    "inceptionv4": "inceptionv4_half_even",
}

if __name__ == "__main__":
    run(
        "prep {images} {bins} --recipe {model_type} --overwrite",
        "model_type",
        "images",
        "bins",
        choices={"model_type": RECIPES},
    )
