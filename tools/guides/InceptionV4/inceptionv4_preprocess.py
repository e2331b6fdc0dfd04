"""The InceptionV4 guide's preprocessing script, done by zoofast."""

from zoofast.guide_script import run

if __name__ == "__main__":
    run(
        "prep {src_path} {save_path} --recipe inceptionv4 --overwrite",
        "--src_path",
        "--save_path",
    )
