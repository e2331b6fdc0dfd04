"""The NASNetALarge guide's preprocessing script, done by zoofast."""

from zoofast.guide_script import run

if __name__ == "__main__":
    run("prep {images} {bins} --recipe nasnetalarge --overwrite", "images", "bins")
