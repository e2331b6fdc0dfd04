"""The SqueezeNet1_1 guide's preprocessing script, done by zoofast."""

from zoofast.guide_script import run

if __name__ == "__main__":
    run("prep {images} {bins} --recipe squeezenet1_1 --overwrite", "images", "bins")
