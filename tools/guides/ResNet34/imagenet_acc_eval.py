"""The ResNet34 guide's scoring script, done by zoofast."""

from zoofast.guide_script import run

if __name__ == "__main__":
    run("score {results} {labels} -o {folder}/{file}", "results", "labels", "folder", "file")
